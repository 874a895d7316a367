"""The report of a run of evolution, as whoever gets it reads it."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.evolution.breeding import by_letters, ones, task
from tests.scripting import scripted

from shoal.errors import CorruptStore, UsageError
from shoal.evolution import Settings, breed
from shoal.evolution.report import reading, verdict, write
from shoal.evolution.report.descent import Descent, line, lives
from shoal.evolution.report.document import document
from shoal.runtime.budget import Budget
from shoal.runtime.types import Request

HOSTILE = "<script>alert('x')</script><img src=http://evil.test/x.png> $x_1$ \u202e\ufffe\x1b[31m [bold]b[/bold]"
NAMES = ["report.html", "fitness.png", "fitness.svg", "lineage.png", "lineage.svg"]


def hostile(request: Request) -> str:
    said = ones(request)
    return said if (said.isdigit() and len(said) < 10) or said == "wrong" else f"{HOSTILE} {said}"


def lengthy(request: Request) -> str:
    said = ones(request)
    return said if (said.isdigit() and len(said) < 10) or said == "wrong" else f"{said} {'many words ' * 360}"


def bred(place: Path, script: Any = ones, *, seed_prompt: str = "0000000000", **settings: Any) -> Path:
    """A run's folder."""
    options = {"budget": settings.pop("budget", None), "run_dir": place, "embed": by_letters}
    model, _ = scripted(script)
    given = Settings(**{"population_size": 6, "generations": 4, "prompts_per_unit": 1, "batch": 6, **settings})
    breed(
        task(seed_prompt=seed_prompt),
        model=model,
        settings=given,
        mutation_prompts=["Change it:"],
        thinking_styles=["Think."],
        **options,
    )
    return place


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which the prompt gets better."""
    return bred(tmp_path_factory.mktemp("grown") / "run", population_size=16, generations=10, batch=8)


class _Page(HTMLParser):
    """What a page would load, follow or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.reached: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "srcset") and not (value or "").startswith("#"):
                self.reached.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.reached.append(f"{tag} {name}")


def parsed(page: str) -> _Page:
    found = _Page()
    found.feed(page)
    return found


def test_the_files_of_a_report(grown: Path) -> None:
    assert [path.name for path in write(grown)] == NAMES
    assert (grown / "fitness.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (grown / "lineage.svg").read_bytes()


def test_the_same_generations_give_the_same_bytes(grown: Path, tmp_path: Path) -> None:
    write(grown)
    again = shutil.copytree(grown, tmp_path / "elsewhere")
    for name in NAMES:
        (again / name).unlink()
    write(again)
    assert all((again / name).read_bytes() == (grown / name).read_bytes() for name in NAMES)


def test_what_is_read_is_what_was_bred(grown: Path) -> None:
    run = reading.read(grown)
    log = json.loads((grown / "generation_log.json").read_bytes())
    assert [[scored.unit.id for scored in one.population] for one in run.generations] == [
        [unit["id"] for unit in one["units"]] for one in log
    ]
    tried = [birth["operator"] for one in log for birth in one["births"]]
    assert {name: one.tried for name, one in run.operators().items()} == {name: tried.count(name) for name in tried}
    assert run.ended == "generations"
    new = json.loads((grown / "new_mutation_prompts.json").read_bytes())
    assert [unit.mutation_prompt for unit in run.new_mutation_prompts()] == new
    assert new, "the run has no hyper-mutation to show"


def test_the_page_says_from_what_to_what_and_how_sure(grown: Path) -> None:
    run = reading.read(grown)
    assert run.comparison is not None
    page = document(run)
    said = run.comparison.verdict
    assert f"<p>{said[:1].upper()}{said[1:]}.</p>" in page.replace("&#43;", "+").replace("&#39;", "'")
    assert f"From “0000000000” to “{run.best.unit.task_prompts[0]}”" in page
    assert f"{run.comparison.low:+.3f} to {run.comparison.high:+.3f}" in page
    for heading in ("Fitness", "Descent", "Operators", "Diversity", "The last population", "New mutation prompts"):
        assert f"<h2>{heading}</h2>" in page
    for scored in run.last.population:
        assert f">{scored.unit.id}<" in page


def test_the_page_refers_to_nothing(grown: Path, tmp_path: Path) -> None:
    for place in (grown, bred(tmp_path / "hostile", hostile, seed_prompt=f"{HOSTILE} 0000000000")):
        files = write(place)
        page = files[0].read_text()
        found = parsed(page)
        assert found.reached == []
        assert not found.tags & {"script", "img", "iframe", "link", "object", "a"}
        assert "default-src 'none'" in page
        for file in files:
            if file.suffix == ".svg":
                assert not re.search(r"""(href|src)=["'](?!#)""", file.read_text())


def test_hostile_prompts_are_text(tmp_path: Path) -> None:
    page = write(bred(tmp_path / "run", hostile, seed_prompt=f"{HOSTILE} 0000000000"))[0].read_text()
    assert "&lt;script&gt;alert(" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\ufffe]", page)


def test_long_prompts_are_folded_but_whole(tmp_path: Path) -> None:
    page = document(reading.read(bred(tmp_path / "run", lengthy)))
    assert page.count("<details") > 6
    assert "many words " * 150 in page


def test_a_run_that_is_not_finished(grown: Path, tmp_path: Path) -> None:
    half = shutil.copytree(grown, tmp_path / "half")
    for name in ("result.json", "complete", "journal.sqlite", "elite_history.json", "generation_log.json"):
        (half / name).unlink()
    (half / "generation_7_stats.json").unlink()  # it is being written
    assert [path.name for path in write(half)] == NAMES
    run = reading.read(half)
    assert run.last.number == 6
    lead = " ".join(verdict.verdict(run))
    assert "6 of 10 generations are complete" in lead
    assert "not been compared" in lead


def test_an_earlier_result_does_not_count_for_a_run_that_went_on(tmp_path: Path) -> None:
    place = bred(tmp_path / "run", generations=2)
    before = (place / "result.json").read_bytes()
    bred(place, generations=4)
    assert reading.read(place).comparison is not None
    (place / "result.json").write_bytes(before)  # as a process leaves it that was killed in the last generation
    run = reading.read(place)
    assert (run.last.number, run.comparison, run.ended) == (4, None, None)


def test_a_run_that_the_budget_ended(tmp_path: Path) -> None:
    run = reading.read(bred(tmp_path / "run", budget=Budget(calls=60)))
    assert run.ended == "budget"
    assert 0 < run.last.number < 4
    assert any("the budget was spent" in sentence for sentence in verdict.verdict(run))


def test_the_files_have_all_that_the_result_counts_wherever_the_budget_ends(tmp_path: Path) -> None:
    for calls in range(45, 80, 2):
        place = bred(tmp_path / str(calls), budget=Budget(calls=calls))
        assert len(reading.read(place).kept) == json.loads((place / "result.json").read_bytes())["history"]


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        (lambda _: "same", {}),
        (ones, {"population_size": 2, "generations": 0}),
        (ones, {"population_size": 5, "generations": 1, "prompts_per_unit": 2}),
        (ones, {"batch": None}),
    ],
    ids=["all equal", "founders only", "odd", "all rows"],
)
def test_runs_with_little_to_show(tmp_path: Path, script: Any, settings: dict[str, Any]) -> None:
    assert [path.name for path in write(bred(tmp_path / "run", script, **settings))] == NAMES


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the folder of a run"):
        write(tmp_path)
    (tmp_path / "_config.json").write_text("{}")
    with pytest.raises(UsageError, match="no generation is complete"):
        write(tmp_path)


def test_a_damaged_file_is_named(grown: Path, tmp_path: Path) -> None:
    place = shutil.copytree(grown, tmp_path / "run")
    (place / "generation_3_log.json").write_text("{")
    with pytest.raises(CorruptStore, match="generation_3_log"):
        write(place)


# Descent


def test_a_line_begins_with_a_founder_and_ends_with_the_unit(grown: Path) -> None:
    run = reading.read(grown)
    way = line(lives(run.generations), run.best.unit)
    assert way[0].born == 0
    assert way[0].unit.parent is None
    assert way[-1].unit.id == run.best.unit.id
    assert all(child.unit.parent == parent.unit.id for parent, child in pairwise(way))
    assert len(way) > 3


def test_a_unit_that_names_itself_as_its_parent_has_an_end(grown: Path, tmp_path: Path) -> None:
    place = shutil.copytree(grown, tmp_path / "run")
    for path in place.glob("generation_*_population/*.json"):
        value = json.loads(path.read_bytes())
        value["unit"]["parent"] = value["unit"]["id"]
        path.write_text(json.dumps(value))
    assert [path.name for path in write(place)] == NAMES


def test_lines_that_are_kept_have_rows_of_their_own_and_do_not_cross(grown: Path) -> None:
    run = reading.read(grown)
    descent = Descent(run.generations, run.best.unit)
    stand = [
        (descent.rows[life.unit.id], number)
        for life in descent.known.values()
        if life.unit.id in descent.kept
        for number in range(life.born, descent.kept[life.unit.id] + 1)
    ]
    assert len(stand) == len(set(stand))
    taken = set(stand)
    for life in descent.known.values():
        parent = descent.parent(life)
        if parent is None or life.unit.id not in descent.kept:
            continue
        above, below = descent.rows[parent.unit.id], descent.rows[life.unit.id]
        for row in range(above + 1, below):
            assert (row, life.born) not in taken or (row, life.born - 1) not in taken
    assert {one.unit.id for one in run.last.population} <= descent.kept.keys()
