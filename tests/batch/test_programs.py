"""A program over many items: arguments from columns, any output, resumed and refused like every run."""

import asyncio
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.scripting import scripted

import shoal
from shoal import llm
from shoal.batch.programs import RowFunction, load_program, returned
from shoal.cli import main
from shoal.errors import NotCached, RunError, UsageError
from shoal.runtime.types import Request


@dataclass
class City:
    name: str
    people: int


@shoal.program
async def mayor(country: str, *, detail: str = "") -> str:
    city = await llm.generate_text(f"southernmost city in {country}?")
    return await llm.generate_text(f"mayor of {city}?{detail}")


def answering(request: Request) -> str:
    return f"[{request.text.split()[-1].rstrip('?')}]"


def test_items_are_arguments() -> None:
    model, _ = scripted(answering)
    items = ["France", ("Spain",), {"country": "Italy", "detail": "!", "unused": 1}]
    records = shoal.map(mayor, items, model=model)
    assert [record.output for record in records] == ["[[France]]", "[[Spain]]", "[[Italy]?!]"]
    assert [record.input["country"] for record in records] == ["France", "Spain", "Italy"]
    assert {(record.technique, record.usage.calls) for record in records} == {("mayor", 2)}


def test_what_is_missing_or_too_much_is_named_before_anything_is_asked() -> None:
    model, backend = scripted(answering)
    with pytest.raises(UsageError, match="mayor takes 'country'; an item has none: did you mean countries"):
        shoal.map(mayor, [{"countries": "x"}], model=model)
    with pytest.raises(UsageError, match="mayor takes 2 arguments; an item has 3"):
        shoal.map(mayor, [(1, 2, 3)], model=model)
    with pytest.raises(UsageError, match="template= is for models"):
        shoal.map(mayor, ["x"], model=model, template="{x}")
    with pytest.raises(UsageError, match="model= is for programs"):
        shoal.map(model, ["x"], model=model)
    with pytest.raises(UsageError, match="no model"):
        shoal.map(mayor, ["x"])
    assert backend.requests == []


def test_outputs_of_every_kind() -> None:
    results = {
        "text": "x",
        "number": 3,
        "yes": True,
        "nothing": None,
        "city": City("Nice", 3),
        "list": [1, {"a": City("Nice", 3)}],
        "completion": shoal.Completion("said"),
        "object": object(),
    }

    @shoal.program
    async def give(which: str) -> Any:
        return results[which]

    records = shoal.map(give, list(results), model=scripted(answering)[0])
    city = {"name": "Nice", "people": 3}
    assert [r.output for r in records] == ["x", 3, True, None, city, [1, {"a": city}], "said", None]
    assert records[-1].error is not None
    assert records[-1].error.message == "object is nothing that JSON can hold: it holds object"
    assert records[1].answer == "3"
    assert returned(shoal.Rendered("t", {"a": 1}, ())).output == {"text": "t", "outputs": {"a": 1}}


def test_one_failure_is_one_record_and_says_where_it_was() -> None:
    prompt = shoal.JinjaPrompt("{{ country }}\n{{ generate_text(name='a') }}{{ 1 / divisor }}", name="ask.jinja")
    items = [{"country": "France", "divisor": 1}, {"country": "Spain", "divisor": 0}]
    good, bad = shoal.map(prompt, items, model=scripted(answering)[0])  # type: ignore[arg-type]
    assert good.output == {"text": "France\n[France]1.0", "outputs": {"a": "[France]"}}
    assert bad.error is not None
    assert bad.error.message == "ask.jinja, line 2: division by zero"


def test_a_run_is_continued_and_another_program_is_refused(tmp_path: Path) -> None:
    model, backend = scripted(answering)
    first = shoal.map(mayor, ["France", "Spain"], model=model, run_dir=tmp_path / "run")
    assert len(backend.requests) == 4
    again = shoal.map(mayor, ["France", "Spain", "Italy"], model=model, run_dir=tmp_path / "run")
    assert (again[:2], len(backend.requests)) == (first, 6)

    @shoal.program
    async def other(country: str) -> str:
        return country

    with pytest.raises(RunError, match="program="):
        shoal.map(other, ["France"], model=model, run_dir=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "output.jsonl").read_text().splitlines()]
    assert [line["output"] for line in lines] == [record.output for record in again]


def test_a_row_that_was_cut_off_repeats_no_finished_call(tmp_path: Path) -> None:
    model, backend = scripted(answering)
    shoal.map(mayor, ["France"], model=model, run_dir=tmp_path / "run")
    with sqlite3.connect(tmp_path / "run" / "journal.sqlite") as journal:
        journal.execute("DELETE FROM row")
    record = shoal.map(mayor, ["France"], model=model, run_dir=tmp_path / "run")[0]
    assert (record.usage.calls, len(backend.requests)) == (2, 2)


def test_a_flow_takes_as_many_waves_as_it_has_steps() -> None:
    model, backend = scripted(answering, waves=True)
    shoal.map(mayor, [f"land {i}" for i in range(64)], model=model)
    assert backend.batches == [64, 64]


def test_a_straggler_delays_its_own_row_alone() -> None:
    release = asyncio.Event()
    finished: list[str] = []

    async def waiting(request: Request) -> str:
        if "slow" in request.text:
            await release.wait()
        return answering(request)

    @shoal.program
    async def steps(country: str) -> str:
        mayor_ = await mayor(country)
        finished.append(country)
        if len(finished) == 20:
            release.set()
        return mayor_

    shoal.map(steps, ["slow", *map(str, range(20))], model=scripted(waiting)[0])
    assert finished[-1] == "slow"


def test_call_trees_are_kept_where_asked_for(tmp_path: Path) -> None:
    model, _ = scripted(answering)
    with pytest.raises(UsageError, match="needs run_dir="):
        shoal.map(mayor, ["France"], model=model, trace=True)
    shoal.map(mayor, ["France"], model=model, trace=True, run_dir=tmp_path / "run")
    with pytest.raises(SystemExit) as exit_:
        main(["trace", str(tmp_path / "run"), "0", "--json"])
    assert exit_.value.code == 0


def test_replay_asks_nothing_and_stops_at_the_first_draw_that_is_not_kept(tmp_path: Path) -> None:
    from tests.runtime.test_program import cached

    model, backend = cached(tmp_path)
    shoal.map(mayor, ["France"], model=model)
    assert len(shoal.map(mayor, ["France"], model=model, replay=True)) == 1
    with pytest.raises(NotCached, match="southernmost city in Spain"):
        shoal.map(mayor, ["France", "Spain"], model=model, replay=True)
    assert len(backend.requests) == 2


def test_programs_are_loaded_from_files(tmp_path: Path) -> None:
    file = tmp_path / "flows.py"
    file.write_text("from pathlib import Path\nasync def shout(text):\n    return text.upper()\nnumber = 3\n")
    function = load_program(f"{file}:shout")
    assert shoal.run(function({"text": "a", "more": 1})).output == "A"
    version = function.version
    file.write_text(file.read_text() + "\n")
    assert load_program(f"{file}:shout").version != version
    (tmp_path / "bad.py").write_text("def broken(:\n")
    (tmp_path / "worse.py").write_text("\n\nimport nothing_of_the_kind\n")
    template = tmp_path / "ask.jinja"
    template.write_text("Hi {{ name }}")
    assert shoal.run(load_program(str(template))({"name": "you"})).text == "Hi you"
    for spec, said in (
        (f"{file}:shot", "has no shot; did you mean shout"),
        (f"{file}:number", "has no number"),
        (f"{file}:Path", "is a class"),
        (f"{tmp_path}/bad.py:x", "bad.py, line 1: SyntaxError: invalid syntax"),
        (f"{tmp_path}/worse.py:x", "worse.py, line 3: ModuleNotFoundError: No module named"),
        (f"{tmp_path}/none.py:x", "no file"),
        ("shout", "expected FILE.py:NAME"),
        (f"{tmp_path}/none.jinja", "No such file"),
    ):
        with pytest.raises(UsageError, match=said):
            load_program(spec)


def test_a_function_that_takes_every_column() -> None:
    async def everything(first: str, **rest: int) -> dict[str, int]:
        return rest

    function = RowFunction(everything)
    assert shoal.run(function({"first": "a", "b": 1, "c": 2})).output == {"b": 1, "c": 2}
    function.check(["first"], "data")


@pytest.mark.parametrize(
    "call",
    [
        lambda model: shoal.map(mayor, ["x"], model=model, run_dri="x"),  # type: ignore[call-arg]
        lambda model: shoal.run(mayor("x"), model=model, run_dri=1),
        lambda model: shoal.complete("x", model=model, run_dri=1),  # type: ignore[call-arg]
        lambda model: shoal.chat("x", model=model, run_dri=1),  # type: ignore[call-arg]
    ],
)
def test_an_option_that_nobody_knows_is_refused(call: Any) -> None:
    model, backend = scripted(answering)
    with pytest.raises(UsageError, match="takes no 'run_dri'"):
        call(model)
    assert backend.requests == []


def test_a_row_that_no_output_can_hold_is_that_row_alone(tmp_path: Path) -> None:
    @shoal.program
    async def give(which: str) -> str:
        if which == "cancelled":
            task = asyncio.ensure_future(asyncio.sleep(9))
            task.cancel()
            await task
        return "\ud800" if which == "half" else which

    for _ in range(2):
        records = shoal.map(give, ["a", "half", "cancelled", "b"], model=scripted(answering)[0], run_dir=tmp_path / "r")
        assert [r.output for r in records] == ["a", None, None, "b"]
        assert [r.error.type for r in records if r.error] == ["UsageError", "CancelledError"]


def test_signatures_that_columns_cannot_serve_are_refused() -> None:
    @shoal.program
    async def by_place(a: str, /) -> str:
        return a

    @shoal.program
    async def many(*a: str) -> str:
        return str(a)

    for function in (by_place, many):
        with pytest.raises(UsageError, match="takes 'a' by place alone"):
            shoal.map(function, ["x"], model=scripted(answering)[0])
