"""What the command line shows of prompts being bred: a live view on a terminal, else a line for each generation."""

from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shoal.cli import show
from shoal.evaluation.report.texts import plain
from shoal.evolution import Evolution, GenerationStats, Progress
from shoal.evolution.generation import Generation
from shoal.evolution.statistics import OperatorStats
from shoal.evolution.unit import Unit
from shoal.techniques.opening import bases
from shoal.traces import words

_BARS = "▁▂▃▄▅▆▇█"
_TREND = 24  # generations in a sparkline, at most
_WIDE, _NARROW = 112, 60  # columns: operators side by side; little room


class EvolveProgress:
    """Follows a run on stderr. Use as a context manager around it, and give `generation` to the run's `on_generation`.

    On a terminal the view reads the run's progress four times a second; nothing is done for each call. `verbose` adds
    the best prompts to each generation's line where there is no terminal.
    """

    def __init__(self, evolution: Evolution, *, verbose: bool = False, console: Console | None = None) -> None:
        self.evolution = evolution
        self.verbose = verbose
        self.console = show.errors if console is None else console
        self.bases = list(bases(evolution.models))
        self.live: Live | None = None
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live = Live(
                get_renderable=self.view, console=self.console, refresh_per_second=4, transient=True, screen=False
            )

    def view(self) -> Group:
        """The run as it stands."""
        in_flight = sum(base.scheduler.in_flight for base in self.bases)
        task = self.evolution.run.task
        width, height = self.console.size
        return view(self.evolution.progress, task.name, in_flight, width, height)

    def generation(self, generation: Generation, stats: GenerationStats) -> None:
        """Told of each generation when it is complete."""
        if self.live is not None:
            return
        self._say(generation_line(stats, self.evolution.progress))
        if self.verbose:
            for prompt in _prompts(stats.best_unit):
                self._say(f"    {plain(prompt, 500)}")

    def _say(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def __enter__(self) -> "EvolveProgress":
        if self.live is not None:
            self.live.start(refresh=True)  # at once: a quick run is over before the first tick
        else:
            run, most = self.evolution.run, self.evolution.progress.rollouts
            each = f"{words.plural(run.settings.population_size, 'unit')}, {words.plural(run.batch, 'question')} each"
            facts = each if most is None else f"at most {words.plural(most, 'question')}"
            facts += f", {words.plural(len(run.task.held_out), 'row')} held out"
            place = self.evolution.options.get("run_dir")
            facts += f"; in {words.visible(str(place))}" if place else ""
            self._say(f"{plain(run.task.name, 60)}: {facts}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()


def generation_line(stats: GenerationStats, progress: Progress) -> str:
    """A generation in one line."""
    facts = [
        f"generation {stats.number} of {progress.generations}",
        f"best {stats.best:.3f}",
        f"mean {stats.mean:.3f}",
        *([f"diversity {stats.diversity:.2f}"] if stats.diversity is not None else []),
        f"{words.count(stats.calls)} calls",
        words.seconds(stats.seconds),
    ]
    if stats.failed:
        facts.append(f"{words.plural(stats.failed, 'question')} failed")
    if stats.number < progress.generations and progress.left is not None:
        facts.append(f"about {words.seconds(progress.left)} left")
    return ", ".join(facts)


# The live view


def view(progress: Progress, name: str, in_flight: int, width: int, height: int) -> Group:
    """All that is shown of a run, on lines of at most `width` columns; on a small terminal only what matters most."""
    tried = dict(progress.operators)
    if width < _NARROW:
        lines, rest = _narrow(progress, in_flight), []
    else:
        lines = [_head(progress, name), _fitness(progress, width), _rate(progress, in_flight)]
        rest = [operators_table(tried, width)] if tried and height > len(tried) + 8 else []
    return Group(*(_cut(line, width) for line in lines), *rest, *_best(progress, width, 3))


def _head(progress: Progress, name: str) -> Text:
    line = Text()
    line.append(plain(name, 24), "bold").append("  ").append(_stage(progress))
    if progress.phase == "breeding":
        line.append("  ").append(_bar(_done(progress), 12), "cyan").append("  ").append(_units(progress))
    return line


def _done(progress: Progress) -> float:
    """The share of the run that is done."""
    if progress.rollouts is not None:
        return progress.questions / progress.rollouts
    whole = min(progress.generation, progress.generations) + progress.scored / progress.population
    return whole / (progress.generations + 1)


def _stage(progress: Progress) -> str:
    if progress.phase == "comparing":
        return "comparing with the seed prompt on held-out rows"
    return f"generation {min(progress.generation, progress.generations)} of {progress.generations}"


def _units(progress: Progress) -> str:
    if progress.rollouts is not None:
        return f"{words.count(progress.questions)} of {words.count(progress.rollouts)} questions"
    return f"{progress.scored} of {progress.population} units scored"


def _fitness(progress: Progress, width: int) -> Text:
    line = Text()
    most = max(1, min(_TREND, (width - 60) // 2))
    figures = (("best", progress.best, progress.bests), ("mean", progress.mean, progress.means))
    for name, now, before in figures:
        line.append(f"{name} ", "dim").append(f"{now:.3f} ")
        line.append(sparkline([*before][-most:]), "cyan").append("  ")
    line.append("best so far ", "dim").append(f"{progress.ever:.3f}", "bold green")
    if progress.diversity is not None:
        line.append("  diversity ", "dim").append(f"{progress.diversity:.2f}")
    return line


def _rate(progress: Progress, in_flight: int) -> Text:
    usage, seconds = progress.usage, max(progress.seconds, 1e-3)
    facts = [
        *_left(progress),
        f"{words.count(usage.calls)} calls",
        *([f"{words.count(usage.cached_calls)} cached"] if usage.cached_calls else []),
        f"{in_flight} in flight",
        f"{words.count(usage.completion_tokens / seconds)} tokens/s",
        f"{words.seconds(seconds)} so far",
    ]
    return Text(" · ".join(facts), style="dim")


def _left(progress: Progress) -> list[str]:
    left = progress.left if progress.phase == "breeding" else None
    return [] if left is None else [f"{words.seconds(left)} left"]


def _narrow(progress: Progress, in_flight: int) -> list[Text]:
    return [
        Text(_stage(progress), "bold"),
        *([Text(_units(progress))] if progress.phase == "breeding" else []),
        Text(f"best {progress.best:.3f}  mean {progress.mean:.3f}"),
        Text(f"best so far {progress.ever:.3f}", "green"),
        Text(" · ".join([*_left(progress), f"{in_flight} in flight"]), "dim"),
    ]


def operators_table(operators: Mapping[str, OperatorStats], width: int) -> Table:
    """Each operator's tries, children that were better and their share; side by side where there is room."""
    beside, size = (2, 5) if width >= _WIDE else (1, 10)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for _ in range(beside):
        table.add_column("operator", no_wrap=True)
        for heading in ("tried", "better", "success"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    cells = [_operator(name, one, size) for name, one in sorted(operators.items())]
    each = -(-len(cells) // beside)
    for place in range(each):
        table.add_row(*(cell for other in range(place, len(cells), each) for cell in cells[other]))
    return table


def _operator(name: str, one: OperatorStats, size: int) -> list[Text]:
    rate = one.better / one.tried if one.tried else 0.0
    figures = (f"{one.tried}", f"{one.better}", f"{rate:.0%}")
    return [Text(plain(name, 30)), *map(Text, figures), Text(_bar(rate, size), "green")]


def _best(progress: Progress, width: int, most: int) -> list[Text]:
    """The best task prompts so far, in at most so many lines."""
    if progress.fittest is None:
        return []
    prompts = " ⏎ ".join(plain(prompt, width * most) for prompt in progress.fittest.task_prompts)
    lines = list(Text("best prompt  ", "dim").append(prompts, "not dim").wrap(show.errors, width))
    shown = lines[:most]
    if len(lines) > most:
        shown[-1].rstrip()
        shown[-1].truncate(width - 1)
        shown[-1].append("…")
    return [_cut(line, width) for line in shown]


def _cut(line: Text, width: int) -> Text:
    line.no_wrap = True
    line.truncate(width, overflow="ellipsis")
    return line


def _prompts(unit: Unit) -> list[str]:
    return [prompt for prompt in (unit.system_prompt, *unit.task_prompts) if prompt]


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, between the lowest and the highest of them."""
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


def _bar(share: float, size: int) -> str:
    filled = round(min(max(share, 0.0), 1.0) * size)
    return "━" * filled + "╌" * (size - filled)
