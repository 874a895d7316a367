"""What is shown of prompts being bred, as it stands on a terminal of a given size."""

import io
import re
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, Group
from tests.evolution.breeding import by_letters, ones, task
from tests.scripting import run, scripted

from shoal.cli.evolved import print_result
from shoal.cli.evolving import EvolveProgress, sparkline, view
from shoal.evolution import Evolution, Progress, Result, Settings
from shoal.evolution.mutators import MUTATORS
from shoal.evolution.statistics import OperatorStats
from shoal.evolution.unit import Unit
from shoal.runtime.types import Request, Usage

HOSTILE = "\x1b[31mRed\x1b[0m \x9b2J \x07 [bold]loud[/bold] [/] \u202eturned\r\n"
SMALL = Settings(population_size=6, generations=4, prompts_per_unit=1, batch=4)


def hostile(request: Request) -> str:
    said = ones(request)
    return said if (said.isdigit() and len(said) < 10) or said == "wrong" else f"{said} {HOSTILE}"


def console(width: int = 80, *, terminal: bool = False, height: int = 40) -> Console:
    """Records what is written; a terminal's escape codes are in it as they would be sent."""
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None, highlight=False
    )


def written(place: Console) -> str:
    assert isinstance(place.file, io.StringIO)
    return place.file.getvalue()


def progress(**changes: Any) -> Progress:
    """Half way through a run."""
    known: dict[str, Any] = {
        "generations": 20,
        "population": 50,
        "generation": 7,
        "scored": 31,
        "best": 0.83,
        "mean": 0.61,
        "ever": 0.875,
        "diversity": 0.43,
        "operators": {name: OperatorStats(40 + i, 3 * i) for i, name in enumerate(MUTATORS)},
        "usage": Usage(100_000, 50_000, 12_345),
        "bests": [0.2, 0.3, 0.5, 0.5, 0.6, 0.8, 0.83],
        "means": [0.1, 0.2, 0.3, 0.35, 0.5, 0.6, 0.61],
        "fittest": Unit(
            "6-2", ("Let's think about this step by step. " * 20, "Therefore, the answer is"), "Change it:"
        ),
    }
    return Progress(**{**known, **changes})


def shown(width: int, height: int = 40, **changes: Any) -> list[str]:
    place = console(width)
    place.print(view(progress(**changes), "answerability", 64, width, height))
    return written(place).rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [20, 40, 59, 60, 80, 100, 111, 112, 120, 200])
def test_lines_fit_the_terminal(width: int) -> None:
    lines = shown(width)
    assert max(cell_len(line.rstrip()) for line in lines) <= width
    assert any("generation 7 of 20" in line for line in lines)
    assert len(lines) <= 16


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_at_common_widths(width: int) -> None:
    lines = shown(width, bests=[0.5] * 21, means=[0.5] * 21)
    text = "\n".join(lines)
    assert "▁" * {80: 10, 120: 21}[width] + "  mean" in lines[1]
    for said in ("31 of 50 units", "best 0.830 ▁", "so far 0.875", "diversity 0.43", "12,345 calls", "64 in flight"):
        assert said in text
    for name, one in progress().operators.items():
        rate = f"{one.better / one.tried:.0%}"
        assert re.search(rf"{name} +{one.tried} +{one.better} +{rate} ", text), name
    assert [line for line in lines if "…" in line] == [lines[-1]]  # of the prompt
    assert len(lines) == {80: 15, 120: 11}[width]


def test_wide_letters_count_twice() -> None:
    lines = shown(60, fittest=Unit("0-0", ("一步一步地思考这个问题" * 30,), ""))
    assert max(cell_len(line.rstrip()) for line in lines) <= 60


def test_a_low_terminal_leaves_operators_out() -> None:
    assert len(shown(80, height=12)) == 6


def test_at_the_beginning_there_is_little_to_say() -> None:
    text = "\n".join(
        shown(80, generation=0, scored=0, bests=[], means=[], operators={}, diversity=None, fittest=None, usage=Usage())
    )
    assert "generation 0 of 20" in text
    assert "diversity" not in text
    assert "left" not in text


def test_a_run_of_so_many_rollouts_counts_questions() -> None:
    text = "\n".join(shown(80, population=1, questions=300, rollouts=1200))
    assert "━━━╌╌╌╌╌╌╌╌╌  300 of 1,200 questions" in text
    assert "units scored" not in text


def test_the_comparison_in_the_end() -> None:
    assert "comparing with the seed prompt" in shown(80, phase="comparing", generation=21)[0]


def test_sparklines() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([0.4, 0.4]) == "▁▁"
    assert sparkline([]) == ""


# A run


def bred(
    place: Console,
    script: Any = ones,
    run_dir: Path | None = None,
    *,
    verbose: bool = False,
    kind: type[EvolveProgress] = EvolveProgress,
) -> Result:
    model, _ = scripted(script)
    evolution = Evolution(
        task(seed_prompt="0000000000"),
        model,
        SMALL,
        run_dir=run_dir,
        mutation_prompts=["Change it:"],
        thinking_styles=["Think."],
        embed=by_letters,
    )
    shown = kind(evolution, verbose=verbose, console=place)
    evolution.options["on_generation"] = shown.generation
    with shown:
        return run(evolution.execute())


def test_without_a_terminal_a_line_a_generation() -> None:
    place = console()
    result = bred(place)
    lines = written(place).splitlines()
    assert lines[0] == "toy: 6 units, 4 questions each, 10 rows held out"
    assert len(lines) == 1 + len(result.stats)
    for number, (line, stats) in enumerate(zip(lines[1:], result.stats, strict=True)):
        assert line.startswith(f"generation {number} of 4, best {stats.best:.3f}, mean {stats.mean:.3f}, diversity")
        assert (" left" in line) == (number < 4)


def test_verbose_lines_have_the_prompts() -> None:
    place = console()
    result = bred(place, verbose=True)
    assert f"    {result.stats[-1].best_unit.task_prompts[0]}" in written(place).splitlines()


@pytest.mark.parametrize("kind", ["terminal", "file"])
def test_prompts_do_not_act_on_the_terminal(kind: str) -> None:
    place = console(terminal=kind == "terminal")
    result = bred(place, hostile, verbose=True)
    print_result(result, HOSTILE, console=place)
    text = written(place)
    assert "[bold]loud[/bold] [/]" in text
    assert "␛[31m" in text
    sent = re.sub(r"\x1b\[(\?25[lh]|\d*A|2K)|\r", "", text)  # the live view's own: cursor hidden, up, line cleared
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", sent)


def test_the_view_is_made_when_it_is_shown_not_at_each_call() -> None:
    views = []

    class Counted(EvolveProgress):
        def view(self) -> Group:
            views.append(1)
            return super().view()

    began = monotonic()
    bred(console(terminal=True), kind=Counted)
    assert 0 < len(views) <= 4 * (monotonic() - began) + 3  # four times a second, and when it begins and ends


# The end of it


@pytest.fixture
def ended(tmp_path: Path) -> tuple[Result, str]:
    place = console(100)
    result = bred(console(), run_dir=tmp_path / "RUN_0")
    print_result(result, "0000000000", console=place)
    return result, written(place)


def test_the_result_says_whether_it_is_better_and_what_it_cost(ended: tuple[Result, str]) -> None:
    result, text = ended
    assert result.comparison is not None
    flat = " ".join(text.split())
    assert result.comparison.verdict[1:] in flat
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[lines.index("seed prompt") + 1] == "    0000000000"
    assert lines[lines.index("best prompt") + 1] == f"    {result.prompts[0]}"
    assert f"{result.comparison.low:+.3f} to {result.comparison.high:+.3f}" in text
    for generation in result.history:
        for birth in generation.births:
            assert birth.operator in text
    assert re.search(rf"^calls +{result.usage.calls}", text, re.MULTILINE)
    assert "all generations are complete" in text
    assert "".join(str(result.run_dir).split()) in "".join(text.split())


def test_prompts_are_printed_whole() -> None:
    place = console(60)
    long = f"{'many words ' * 300}end."
    result = bred(console(), lambda request: "wrong" if re.search(r"Say \d", request.text) else long)
    print_result(result, "seed", console=place)
    assert " ".join(result.prompts[0].split()) in " ".join(written(place).split())
    assert len(result.prompts[0]) > 3000
