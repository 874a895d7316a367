"""Ray Data for real: actors of a local cluster, one of them killed."""

import asyncio
import datetime
import importlib
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.backends.faulty_server import faulty_server
from tests.scale.conftest import KEY, Script, kept_by, run_example

import shoal
import shoal.daft
import shoal.ray
from shoal.errors import UsageError

ROWS = 120
RESULTS = ["row_id", "output", "answer", "finish_reason", "prompt_tokens", "completion_tokens", "calls", "cached_calls"]
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # of what it sets itself
    pytest.mark.filterwarnings("ignore:The minimum number of concurrent actors"),  # than there are batches
]


def facts(rows: Any, name: str = "q") -> list[tuple[Any, ...]]:
    """What came of each row, in the order of the rows' texts."""
    return sorted((row[name], row["output"], row["answer"], row["calls"], row["error"]) for row in rows)


def of_map(records: list[shoal.Record], name: str = "q") -> list[tuple[Any, ...]]:
    """The same of what `shoal.map` gives."""
    return sorted((r.input[name], r.output, r.answer, r.usage.calls, r.error) for r in records)


def test_results_are_those_of_map_and_nothing_is_asked_twice(cluster: Any, script: Script) -> None:
    day, moment = datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1, 12)
    other = {"day": day, "at": moment, "nested": {"a": [1, None]}, "bytes": b"\xff", "none": None}
    texts = [f"both {'x' * (i % 11)} {i}" for i in range(ROWS)]
    dataset = cluster.data.from_items(
        [{"q": text, "n": i} | other for i, text in enumerate(texts)], override_num_blocks=4
    )
    model, options = "self_consistency(n=3)@" + script.spec, {"template": "Q: {q}", "cache": False, "run_dir": "kept"}
    mapped = shoal.ray.map_program(dataset, model, **options, concurrency=2, batch_size=16, batches=2)
    rows = mapped.take_all()
    before = script.asked()
    assert len({pid for pid, _ in before}) == 2
    assert facts(rows) == of_map(shoal.map(model, [{"q": text} for text in texts], template="Q: {q}"))
    assert set(rows[0]) == {"q", "n", *other, *RESULTS, "error"}
    assert [{name: row[name] for name in other} for row in rows] == [other] * ROWS
    assert len({row["row_id"] for row in rows}) == ROWS
    before = script.asked()
    more = dataset.union(cluster.data.from_items([{"q": "one more", "n": ROWS} | other]))
    again = shoal.ray.map_program(more, model, **options).take_all()
    assert facts(row for row in again if row["n"] < ROWS) == facts(rows)
    assert {draw.split(" (")[0] for _, draw in script.asked()[len(before) :]} == {"Q: one more"}


def test_an_actor_is_killed_half_way(cluster: Any, script: Script, tmp_path: Path) -> None:
    texts = [f"both {'x' * (i % 11)} {i}" for i in range(4 * ROWS)]
    model = "self_consistency(n=3)@" + script.spec
    dataset = cluster.data.from_items([{"q": text} for text in texts], override_num_blocks=2)
    options = {"template": "{q}", "run_dir": "kept", "cache": False, "max_in_flight": 2}
    mapped = shoal.ray.map_program(dataset, model, **options, concurrency=2, batch_size=16, batches=2)
    done: list[Any] = []
    work = threading.Thread(target=lambda: done.extend(mapped.take_all()))
    work.start()
    while len(script.asked()) < 2 * ROWS:
        work.join(0.01)
        assert work.is_alive()
    victim = script.asked()[-1][0]
    os.kill(victim, signal.SIGKILL)
    work.join(200)
    asked = script.asked()
    of_victim, kept = sum(pid == victim for pid, _ in asked), kept_by(victim, tmp_path / "kept")
    assert len({pid for pid, _ in asked}) == 3
    assert kept > 0
    assert len(asked) == 3 * len(texts) + of_victim - kept  # what was not on disk yet, and no more, is asked again
    assert sorted(Counter(row["q"] for row in done).items()) == sorted((text, 1) for text in texts)
    assert facts(done) == of_map(shoal.map(model, [{"q": text} for text in texts], template="{q}"))


def test_a_slow_row_holds_up_no_other_batch(cluster: Any, script: Script) -> None:
    # The slow row is answered when all others are: were the end of its batch waited for, it never would be.
    dataset = cluster.data.from_items([{"prompt": f"{'slow' if i == 0 else 'quick'} {i}"} for i in range(40)])
    rows = shoal.ray.map_program(dataset, script.spec, batch_size=4, cache=False).take_all()
    assert [row["error"] for row in rows] == [None] * 40


def test_programs_one_after_another_and_no_rows_at_all(cluster: Any, script: Script) -> None:
    @shoal.program
    async def count(q: str) -> dict[str, int]:
        if q == "b":
            raise ValueError("not b")
        return {"words": len((await shoal.llm.completion(q)).text.split())}

    options: Any = {"cache": False, "num_cpus": 0.5}
    dataset = cluster.data.from_items([{"q": text} for text in "abcabc"])
    with pytest.raises(UsageError, match="has a column 'row_id' already; give another prefix=, such as 'shoal_'"):
        taken = cluster.data.from_items([{"q": "a", "row_id": 1}])
        shoal.ray.map_program(taken, script.spec, template="{q}", **options)
    first = shoal.ray.map_program(dataset, count, model=script.spec, id_column="q", **options)
    second = shoal.ray.map_program(
        first, script.spec, template="{q}", prefix="then_", score=shoal.open_scorer("number"), target="calls", **options
    )
    rows = sorted(second.take_all(), key=lambda row: str(row["q"]))
    assert [row["output"] for row in rows] == ['{"words":4}'] * 2 + [None] * 2 + ['{"words":4}'] * 2
    assert [row["error"] for row in rows][1:3] == [None, {"type": "ValueError", "message": "not b"}]
    assert [(row["then_output"], row["then_score"]) for row in rows[:2]] == [("The answer is 1.", 1.0)] * 2
    assert shoal.ray.map_program(dataset.limit(0), script.spec, template="{q}", **options).take_all() == []


def test_what_cannot_run_ends_the_job_and_says_why(
    cluster: Any, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = cluster.data.from_items([{"q": "a"}])
    with pytest.raises(Exception, match="unknown model 'nobody/x'"):
        shoal.ray.map_program(dataset, "nobody/x", template="{q}", num_cpus=0.5).take_all()
    (tmp_path / "of_the_driver.py").write_text("import shoal\n@shoal.program\nasync def f(q): return q\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    only_here = importlib.import_module("of_the_driver").f
    with pytest.raises(Exception, match=r"f cannot be loaded on a worker .*its module must be importable there"):
        shoal.ray.map_program(dataset, only_here, model=script.spec, num_cpus=0.5).take_all()


def test_keys_are_the_workers_own_and_a_wrong_one_is_an_error_in_each_row(cluster: Any, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with faulty_server() as server, faulty_server() as other:
            (tmp_path / "shoal.toml").write_text(
                f"""
                [endpoints.first]
                base_url = "{server.base_url}"
                api_key = "${{TEST_KEY}}"
                [endpoints.second]
                base_url = "{other.base_url}"
                api_key = "${{TEST_KEY}}"
                [models.both]
                endpoints = ["first/m", "second/m"]
                """
            )
            dataset = cluster.data.from_items([{"prompt": text} for text in ("good", "fine", "[[401]]")])
            mapped = shoal.ray.map_program(dataset, "both", config="shoal.toml", cache=False)
            rows = await asyncio.to_thread(mapped.take_all)
            sent = [request.headers["authorization"] for request in (*server.requests, *other.requests)]
            assert set(sent) == {f"Bearer {KEY}"}
            return sorted(rows, key=lambda row: str(row["prompt"]))

    refused, *answered = asyncio.run(main())
    assert refused["error"]["type"] == "AuthenticationFailed"
    assert [(row["output"], row["error"]) for row in answered] == [("answer 0.0", None)] * 2
    assert KEY not in str(refused)
    logs = list(Path(os.environ["RAY_PLACE"]).glob("session_latest/logs/**/*.*"))
    assert len(logs) > 10
    assert not [log for log in logs if log.is_file() and KEY.encode() in log.read_bytes()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "{question}"}, "column 'question' is read; the dataset has none: did you mean 'q'|known: q"),
        ({"template": "{q}", "id_column": "id"}, "column 'id' is read"),
        ({"template": "{q}", "concurrency": (2, 1)}, r"concurrency=\(2, 1\)"),
        ({"template": "{q}", "batchsize": 3}, "batchsize"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_said_at_once(cluster: Any, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shoal.ray.map_program(cluster.data.from_items([{"q": "a"}]), "local", **options)


def test_the_example_of_the_docs(cluster: Any, script: Script) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(run_example("shoal.ray", script)).to_pylist()
    assert [row["error"] for row in rows] == [None] * 20
    assert len({row["question"] for row in rows}) == 20


def test_actors_that_leave_no_cpu_to_read_rows_are_warned_of(cluster: Any) -> None:
    dataset = cluster.data.from_items([{"q": "a"}])
    with pytest.warns(UserWarning, match="3 actors with num_cpus=1 each leave less than one of the cluster's 3 CPUs"):
        shoal.ray.map_program(dataset, "local", template="{q}", concurrency=(3, 5), num_cpus=1)
    shoal.ray.map_program(dataset, "local", template="{q}", concurrency=(3, 5))  # by themselves they leave one


@pytest.mark.parametrize(("module", "extra"), [("ray.data", "ray"), ("daft", "daft")])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    asking: Any = {"ray": lambda: shoal.ray.map_program(None, "local"), "daft": lambda: shoal.daft.program("local")}
    with pytest.raises(UsageError, match=rf"pip install 'shoal\[{extra}\]'"):
        asking[extra]()
