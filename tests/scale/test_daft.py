"""Daft for real: in this process, in worker processes, and one of them killed."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.scale.conftest import Script, kept_by, run_example

import shoal
import shoal.daft
from shoal.errors import UsageError

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(autouse=True)
def daft(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    monkeypatch.setenv("DAFT_ANALYTICS_ENABLED", "0")
    monkeypatch.setenv("DAFT_PROGRESS_BAR", "0")
    monkeypatch.setenv("DAFT_RUNNER", "native")  # not the cluster that another test may have begun
    return pytest.importorskip("daft")


def results(frame: Any) -> dict[str, dict[str, Any]]:
    found = frame.to_pydict()
    assert len(set(found["q"])) == len(found["q"])
    return dict(zip(found["q"], found["result"], strict=True))


def test_results_are_those_of_map_and_nothing_is_asked_twice(daft: Any, script: Script) -> None:
    texts = [f"{'bad' if i == 7 else 'question'} {'x' * (i % 11)} {i}" for i in range(100)]
    model: Any = "self_consistency(n=3)@" + script.spec
    frame = daft.from_pydict({"q": texts, "n": list(range(100))})
    ask = shoal.daft.program(model, template="Q: {q}", run_dir="kept", cache=False, batch_size=8, batches=4)
    found = results(frame.with_column("result", ask(frame["q"])))
    wanted = {r.input["q"]: r for r in shoal.map(model, [{"q": text} for text in texts], template="Q: {q}")}
    facts = {q: (r["output"], r["answer"], r["calls"], r["error"] and r["error"]["type"]) for q, r in found.items()}
    assert facts == {q: (r.output, r.answer, r.usage.calls, r.error and r.error.type) for q, r in wanted.items()}
    before = len(script.asked())
    again = shoal.daft.program(model, template="Q: {q}", run_dir="kept", cache=False)
    assert results(frame.with_column("result", again(q=frame["q"]))) == found
    assert {draw.split(" (")[0] for _, draw in script.asked()[before:]} == {"Q: bad xxxxxxx 7"}


def test_a_slow_row_holds_up_no_other_batch(daft: Any, script: Script) -> None:
    frame = daft.from_pydict({"q": [f"{'slow' if i == 0 else 'quick'} {i}" for i in range(40)]})
    ask = shoal.daft.program(script.spec, template="{q}", cache=False, batch_size=4, batches=2)
    found = results(frame.with_column("result", ask(frame["q"])))
    assert [r["error"] for r in found.values()] == [None] * 40


def test_programs_take_columns_by_name_or_in_order(daft: Any, script: Script) -> None:
    @shoal.program
    async def count(q: str, times: int = 1) -> dict[str, int]:
        return {"words": times * len((await shoal.llm.completion(q)).text.split())}

    def right(completion: shoal.Completion, row: dict[str, Any]) -> bool:
        return row["gold"] == 8 and "8" in completion.text

    frame = daft.from_pydict({"q": ["a", "b"], "n": [2, 1]})
    run = shoal.daft.program(count, model=script.spec, cache=False)
    for given in (run(frame["q"], frame["n"]), run(times=frame["n"], q=frame["q"])):
        found = results(frame.with_column("result", given))
        assert {q: r["output"] for q, r in found.items()} == {"a": '{"words":8}', "b": '{"words":4}'}
    rated = shoal.daft.program(count, model=script.spec, cache=False, score=right)
    found = results(frame.with_column("result", rated(frame["q"], times=frame["n"], gold=daft.lit(8))))
    assert {q: r["score"] for q, r in found.items()} == {"a": 1.0, "b": 0.0}
    for wrong, message in (
        (lambda: run(frame["n"], frame["n"], frame["n"]), "reads 2 columns"),
        (lambda: run(times=frame["n"]), "column 'q' is read and not given"),
        (lambda: run(frame["q"], time=frame["n"]), "column 'time' is given and not read; did you mean times"),
    ):
        with pytest.raises(UsageError, match=message):
            wrong()


def test_the_example_of_the_docs(daft: Any, script: Script) -> None:
    found = daft.read_parquet(str(run_example("shoal.daft", script).absolute())).to_pydict()
    assert sorted(found["id"]) == list(range(20))
    assert all("The answer" in result["output"] for result in found["result"])


QUERY = """
import os, sys
import daft, shoal.daft

frame = daft.from_pydict({"q": [f"both {'x' * (i % 11)} {i}" for i in range(200)]})
ask = shoal.daft.program(
    "self_consistency(n=3)@" + sys.argv[1],
    template="{q}",
    run_dir="kept",
    cache=False,
    max_in_flight=4,
    processes=2,
    batch_size=20,
)
frame.with_column("result", ask(frame["q"])).write_parquet("out")
"""


def query(script: Script) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen([sys.executable, "-c", QUERY, script.spec], stderr=subprocess.PIPE, env=environment)


def wait_for(process: subprocess.Popen[bytes], script: Script, draws: int) -> None:
    while len(script.asked()) < draws:
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(process.wait(0.02), process.communicate())


def check_written(daft: Any, script: Script) -> None:
    found = results(daft.read_parquet("out"))
    texts = [f"both {'x' * (i % 11)} {i}" for i in range(200)]
    wanted = shoal.map("self_consistency(n=3)@" + script.spec, [{"q": q} for q in texts], template="{q}")
    assert {q: (r["output"], r["calls"], r["error"]) for q, r in found.items()} == {
        r.input["q"]: (r.output, r.usage.calls, None) for r in wanted
    }


def test_a_worker_process_is_killed_and_the_query_goes_on(daft: Any, script: Script) -> None:
    with query(script) as process:
        wait_for(process, script, 200)
        victim = script.asked()[-1][0]
        os.kill(victim, signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    asked = script.asked()
    of_victim, kept = sum(pid == victim for pid, _ in asked), kept_by(victim, Path("kept"))
    assert len({pid for pid, _ in asked}) == 3
    assert kept > 0
    assert len(asked) == 600 + of_victim - kept  # what was not on disk yet, and no more, is asked again
    check_written(daft, script)


def test_daft_itself_is_killed_and_the_query_run_again(daft: Any, script: Script) -> None:
    with query(script) as first:
        wait_for(first, script, 200)
        first.kill()
    workers = {pid for pid, _ in script.asked()}
    while any(Path(f"/proc/{pid}").exists() for pid in workers):  # which end by themselves
        pass
    before = script.asked()
    with query(script) as second:
        _, errors = second.communicate()
        assert second.returncode == 0, errors
    asked = script.asked()
    lost = len(before) - sum(kept_by(pid, Path("kept")) for pid in workers)
    assert len(workers) == 2
    assert lost < len(before)
    assert len(asked) == 600 + lost
    check_written(daft, script)
