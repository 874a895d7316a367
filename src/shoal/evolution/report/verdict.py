"""What a run found, in sentences: from which prompt to which, and whether that is better."""

from shoal.evaluation.report.texts import plain
from shoal.evolution.report.descent import line, lives
from shoal.evolution.report.reading import Run
from shoal.traces import words

_ENDS = {
    "plateau": "It ended early: the mean fitness did not rise any more.",
    "target": "It ended early: a unit had the fitness that was asked for.",
    "budget": "It stopped because the budget was spent, and can go on with a larger one.",
    "interrupted": "It was interrupted, and can go on.",
}


def verdict(run: Run) -> list[str]:
    """Whether the bred prompt is better than the seed prompt, what both are, and how the run went."""
    found = run.comparison
    seed, bred = quoted(run.seed_prompt), " then ".join(quoted(text) for text in run.best.unit.task_prompts)
    change = f"From {seed} to {bred}." if run.seed_prompt else f"The best prompt is {bred}."
    if run.best.unit.task_prompts == (run.seed_prompt,):
        change = f"The best prompt is the seed prompt, {seed}."
    if found is None:
        why = "it has not been compared with the seed prompt on held-out rows"
        first = f"Whether the prompt that was bred is better is not known: {why}."
    else:
        said = plain(found.verdict, 500)
        first = f"{said[:1].upper()}{said[1:]}."
    failed = (
        f"On {words.plural(found.failed, 'held-out row')} a call failed; they do not count."
        if found and found.failed
        else ""
    )
    return [sentence for sentence in (first, change, _course(run), _end(run), failed) if sentence]


def quoted(text: str) -> str:
    """A prompt within a sentence."""
    return f"“{plain(text, 160)}”"


def _course(run: Run) -> str:
    """How fitness went, and how far from a founder the best unit is."""
    best, first = run.best, run.kept[0].generation
    steps = len(line(lives(run.generations), best.unit)) - 1
    born = "It is a founder's" if not steps else f"It is {words.plural(steps, 'mutation')} away from a founder's"
    where = "" if best.evaluated == best.unit.born else f", tried again in generation {best.evaluated}"
    sentence = f"{born}, came in generation {best.unit.born}{where}, and had a fitness of {best.fitness:.3f}"
    sentence += f" on {words.plural(best.questions, 'question')}" if best.questions else ""
    if not run.last.number:
        return f"{sentence}."
    return (
        f"{sentence}. From the founders to generation {run.last.number}, the mean fitness went from {first.mean:.3f} "
        f"to {run.last.mean:.3f}, the best from {first.best.fitness:.3f} to {run.last.best.fitness:.3f}."
    )


def _end(run: Run) -> str:
    if run.ended is None:
        return f"The run is not finished: {run.last.number} of {words.plural(run.planned, 'generation')} are complete."
    return _ENDS.get(run.ended, "")
