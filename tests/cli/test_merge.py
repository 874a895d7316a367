"""`shoal run --shard` and `shoal merge` as people use them: every kind of input, every mistake, exit codes, figures."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.shell import Shell

from shoal.batch.directory import DirectoryLock

SCRIPT = """
def sums(request):
    with open("asked", "a") as asked:
        asked.write(request.text.replace("\\n", " ") + "\\n")
    if "fail" in request.text:
        raise ValueError("cannot")
    return f"The answer is {sum(int(word) for word in request.text.split() if word.isdigit())}."

def yes(request):
    return "yes" if "3" in request.text else "no"

def moody(request):
    with open("mood") as mood:
        return mood.read()

def rewriting(request):
    if "What is 76" in request.text:
        with open("data.jsonl", "w") as data:
            data.write('{"question": "another"}\\n' * 1000)
    return request.text

def rate(output, target):
    raise AssertionError("imported, and never to be called by a merge")
"""
PROGRAM = """
from shoal import llm, program

@program
async def twice(question):
    first = await llm.generate_text(question)
    return [first, await llm.generate_text(question + " and " + first)]
"""
ROWS = [{"id": f"r{i}", "question": f"What is {i} plus {i} ?", "gold": str(2 * i)} for i in range(10)]
MODEL = ("-m", "scripted/s.py:sums")
RUN = ("run", "data.jsonl", "-p", "{question}", *MODEL)

TEMPLATES = ("--template", "A {question}", "--template", "B {question}")


@pytest.fixture(autouse=True)
def files(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (at_home / "s.py").write_text(SCRIPT)
    (at_home / "p.py").write_text(PROGRAM)
    (at_home / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.delenv("SHOAL_CACHE")  # so that a test sees whether a shard uses the user's
    monkeypatch.setenv("XDG_CACHE_HOME", str(at_home / "home"))


def records(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def shards(shoal: Shell, command: tuple[str, ...], count: int, folder: str = "run") -> list[dict[str, object]]:
    said = []
    for index in range(count):
        code, out, err = shoal(*command, "--run-dir", folder, "--shard", f"{index}/{count}", "--json")
        assert code == 0, err
        said.append(json.loads(out))
    return said


@pytest.mark.parametrize(
    "command",
    [
        RUN,
        (*RUN, "--limit", "7", "--answer", "gold", "--scorer", "number", "-t", "self_consistency(n=2)"),
        ("run", *TEMPLATES, "--args", "data.jsonl", "--answer", "gold", "--samples", "2", *MODEL),
        ("run", "data.jsonl", "--program", "p.py:twice", *MODEL),
        ("run", "data/capitals", "--limit", "9", *MODEL),
        ("run", "puzzle/basic_arithmetic?size=7&seed=3", *MODEL),
    ],
    ids=["file", "scored", "templates", "program", "set", "puzzle"],
)
def test_every_kind_of_input_is_the_same_in_shards(shoal: Shell, command: tuple[str, ...]) -> None:
    code, _, err = shoal(*command, "--run-dir", "whole", "--json", "--no-cache")
    assert code == 0, err
    alone = Path("asked").read_text().splitlines()
    Path("asked").unlink()
    parts = shards(shoal, command, 3)
    assert sorted(Path("asked").read_text().splitlines()) == sorted(alone)
    code, out, _ = shoal("merge", "run", "-o", "out.jsonl", "--json")
    assert code == 0
    whole = Path("whole/output.jsonl").read_bytes()
    assert Path("out.jsonl").read_bytes() == Path("run/output.jsonl").read_bytes() == whole
    assert json.loads(out)["calls"] == sum(int(str(part["calls"])) for part in parts) == len(alone)


def test_standard_input_in_shards(shoal: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in (1, 0):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(Path("data.jsonl").read_bytes())))
        assert shoal("run", "-", *RUN[2:], "--run-dir", "run", "--shard", f"{index}/2")[0] == 0
    assert shoal("merge", "run")[0] == 0
    assert [row["id"] for row in records("run/output.jsonl")] == [row["id"] for row in ROWS]


def test_a_shard_says_what_it_is_and_the_whole_finishes_what_is_missing(shoal: Shell) -> None:
    code, _, err = shoal(*RUN, "--answer", "gold", "--shard", "1/4", "--trace")
    assert code == 0
    (run,) = Path("runs").iterdir()
    assert f"this is shard 1/4; shoal merge {run} puts all shards together" in err
    assert "3 of 3" in err
    assert [row["id"] for row in records(run / "shard-1-of-4" / "output.jsonl")] == ["r1", "r5", "r9"]
    code, _, err = shoal(*RUN, "--answer", "gold")
    assert (code, "holds shards of a run; unite them with `shoal merge" in err) == (2, True)
    code, _, err = shoal("merge", str(run))
    assert code == 1
    assert "7 rows are missing (shard 0/4 lacks 3, shard 2/4 lacks 2, shard 3/4 lacks 2)" in err
    assert "3 of 10" in err
    assert "100.0% of 3" in err
    asked = Path("asked").read_text().splitlines()
    assert len(asked) == 3
    assert shoal(*RUN, "--answer", "gold")[0] == 0
    assert len(Path("asked").read_text().splitlines()) == 10
    assert shoal("merge", str(run))[0] == 0


def test_what_a_shard_did_since_a_merge_is_merged_before_the_whole_goes_on(shoal: Shell) -> None:
    assert shoal(*RUN, "--run-dir", "run", "--shard", "0/2")[0] == 0
    assert shoal("merge", "run")[0] == 1
    assert shoal(*RUN, "--run-dir", "run", "--shard", "1/2", "--budget", "calls=3")[0] == 1
    before = Path("asked").read_text()
    code, _, err = shoal(*RUN, "--run-dir", "run")
    assert code == 2
    assert "run/shard-1-of-2 has finished 3 rows that run lacks; unite them with `shoal merge run`" in err
    assert Path("asked").read_text() == before
    assert shoal("merge", "run")[0] == 1
    assert shoal(*RUN, "--run-dir", "run")[0] == 0
    assert len(Path("asked").read_text().splitlines()) == 10
    assert shoal(*RUN, "--run-dir", "run", "--shard", "1/2")[0] == 0  # pays for what the whole has done; nobody's loss
    assert shoal(*RUN, "--run-dir", "run")[0] == 0


def test_more_shards_than_rows_are_empty_and_well(shoal: Shell) -> None:
    code, out, _ = shoal(*RUN, "--answer", "gold", "--shard", "11/12", "--json", "--run-dir", "run")
    summary = json.loads(out)
    assert (code, summary["rows"], summary["score"], summary["shard"]) == (0, 0, None, "11/12")
    assert Path("run/shard-11-of-12/output.jsonl").read_bytes() == b""
    assert shoal(*RUN, "--answer", "gold", "--shard", "11/12", "--run-dir", "run", "--plan")[0] == 0
    shards(shoal, (*RUN, "--answer", "gold"), 12)
    assert shoal("merge", "run")[0] == 0


def test_a_plan_is_of_the_shard(shoal: Shell) -> None:
    for command in (("plan", *RUN[1:]), (*RUN, "--plan")):
        _, out, _ = shoal(*command, "--shard", "3/4", "--json", "--run-dir", "run")
        plan = json.loads(out)
        assert (plan["rows"], plan["left"], plan["calls"]["most"]) == (2, 2, 2)
    assert not Path("run").exists()
    assert shoal(*RUN, "--run-dir", "run", "--shard", "3/4")[0] == 0
    _, out, _ = shoal(*RUN, "--plan", "--shard", "3/4", "--json", "--run-dir", "run")
    assert (json.loads(out)["done"], json.loads(out)["left"]) == (2, 0)


def test_a_budget_is_a_shards_own(shoal: Shell) -> None:
    code, out, err = shoal(*RUN, "--budget", "calls=2", "--shard", "0/2", "--json", "--run-dir", "run")
    assert (code, "stopped: the budget of 2 calls is spent" in err) == (1, True)
    written = records("run/shard-0-of-2/output.jsonl")
    assert [(row["id"], row["error"] is None) for row in written] == [(f"r{i}", i < 4) for i in range(0, 10, 2)]
    code, out, _ = shoal("merge", "run", "--json")
    assert (code, json.loads(out)["incomplete_shards"]) == (1, {"0/2": 3, "1/2": 5})


def test_a_failed_row_is_told_and_mended_by_its_shard(shoal: Shell) -> None:
    rows = [*ROWS[:3], {"id": "bad", "question": "fail", "gold": "1"}]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for index in range(2):
        shoal(*RUN, "--run-dir", "run", "--shard", f"{index}/2")
    code, _, err = shoal("merge", "run")
    assert code == 1
    assert "1 (1 EngineError)" in err
    assert "missing" not in err


def test_the_figure_is_the_scorers(shoal: Shell) -> None:
    rows = [{"question": f"{i} ?", "gold": "yes" if i in (3, 4) else "no"} for i in range(6)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("run", "data.jsonl", "-p", "{question}", "-m", "scripted/s.py:yes", "--answer", "gold")
    scored = (*command, "--scorer", "f_beta(beta=1)")
    _, out, _ = shoal(*scored, "--json", "--run-dir", "whole")
    shards(shoal, scored, 2)
    _, merged, _ = shoal("merge", "run", "--json")
    for name in ("metric", "value", "score"):
        assert json.loads(merged)[name] == json.loads(out)[name]
    assert json.loads(merged)["value"] == pytest.approx(2 / 3)


def test_a_merge_imports_nothing_that_a_run_directory_names(shoal: Shell) -> None:
    Path("mine.py").write_text("def rate(output, target):\n    return 0.25\n")
    shards(shoal, (*RUN, "--answer", "gold", "--scorer", "mine.py:rate"), 2)
    Path("mine.py").write_text("raise SystemExit('imported')")
    Path("s.py").write_text("raise SystemExit('imported')")
    code, out, _ = shoal("merge", "run", "--json")
    assert (code, json.loads(out)["metric"], json.loads(out)["value"]) == (0, "mean score", 0.25)


def test_mistakes_are_one_line(shoal: Shell) -> None:
    shards(shoal, RUN, 2)
    for arguments, said in (
        ((*RUN, "-o", "./data.jsonl"), "-o data.jsonl would overwrite the rows themselves; name another file"),
        ((*RUN, "--shard", "2/2"), "those of 2 are 0/2 to 1/2"),
        ((*RUN, "--shard", "auto"), "no launcher says"),
        ((*RUN, "--shard", "0/2", "-o", "out.jsonl"), "all shards would write the one -o"),
        ((*RUN, "--shard", "0/3", "--run-dir", "run"), "run holds shards of 2 (shard-0-of-2), now --shard 0/3"),
        ((*RUN, "--shard", "0/2", "--seed", "1", "--run-dir", "run"), "holds a run with seed=null, now seed=1"),
        ((*RUN, "--run-dir", "run/shard-0-of-2"), "holds shard 0/2 of a run, now the whole"),
        ((*RUN, "--shard", "1/2", "--run-dir", "run/shard-0-of-2"), "holds shard 0/2 of a run, not the whole"),
        (("merge",), "Missing argument 'RUN...'"),
        (("merge", "nowhere"), "nowhere: no such run directory"),
        (("merge", "data.jsonl"), "data.jsonl: is no directory"),
    ):
        code, out, err = shoal(*arguments)
        assert (code, out) == (2, "")
        assert said in err
        assert len(err.splitlines()) == 1
    lock = DirectoryLock(Path("run/shard-1-of-2"), "a run directory")
    for arguments in ((*RUN, "--shard", "1/2", "--run-dir", "run"), ("merge", "run")):
        code, _, err = shoal(*arguments)
        assert (code, "run/shard-1-of-2 is in use by process" in err) == (1, True)
    lock.release()


def test_results_that_differ_are_told_and_one_is_taken(shoal: Shell) -> None:
    """A shard that was thought lost had been finished: somewhere else, by a model that samples."""
    command = ("run", "data.jsonl", "-p", "{question}", "-m", "scripted/s.py:moody")
    for mood in ("glum", "cheerful"):
        Path("mood").write_text(mood)
        shards(shoal, command, 1, mood)
    for into, order in (("one", ("glum", "cheerful")), ("two", ("cheerful", "glum"))):
        code, _, err = shoal("merge", *order, "--run-dir", into, "--quiet")
        assert code == 0
        assert (
            err == "10 rows and 10 draws were made in several runs, not with the same result; one of them was taken\n"
        )
        assert {row["output"] for row in records(f"{into}/output.jsonl")} == {"cheerful"}


def test_the_output_goes_to_standard_output(shoal: Shell) -> None:
    shards(shoal, RUN, 2)
    code, out, err = shoal("merge", "run", "-o", "-", "--json")
    assert (code, out) == (0, Path("run/output.jsonl").read_text())
    assert json.loads(err)["merged"] == ["run/shard-0-of-2", "run/shard-1-of-2"]


def test_shards_leave_the_users_cache_alone_unless_it_is_named(
    shoal: Shell, at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may lie in a home directory that all machines share."""
    shards(shoal, RUN, 2)
    assert not (at_home / "home").exists()
    monkeypatch.setenv("SHOAL_CACHE", str(at_home / "named.sqlite"))
    shards(shoal, RUN, 2, "run2")
    assert (at_home / "named.sqlite").exists()
    shards(shoal, (*RUN, "--replay"), 2, "run3")
    assert len(Path("asked").read_text().splitlines()) == 20


def test_rows_that_change_under_a_shard_end_it_in_one_line_and_none_of_them_is_asked(shoal: Shell) -> None:
    before = "".join(json.dumps({"question": f"What is {i} plus {i} ?" + " " * 99}) + "\n" for i in range(1000))
    Path("data.jsonl").write_text(before)
    command = (*RUN[:4], "-m", "scripted/s.py:rewriting", "--run-dir", "run", "--max-in-flight", "8")
    code, _, err = shoal(*command, "--shard", "0/2", "--quiet")
    done = records("run/shard-0-of-2/output.jsonl")
    assert all(row["output"].startswith(f"What is {row['id']} plus") for row in done)
    assert (code, err) == (
        1,
        f"data.jsonl was changed while the run read it, so {500 - len(done)} rows are left: put it back, and the same "
        "command resumes, or choose another --run-dir\n",
    )
    assert 38 < len(done) < 300
    assert "run holds a run of other rows" in shoal(*command, "--shard", "0/2")[2].replace("/shard-0-of-2", "")
