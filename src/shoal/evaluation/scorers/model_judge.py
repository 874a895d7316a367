"""A model as the judge of answers."""

from shoal.batch.rows import Row
from shoal.errors import UsageError
from shoal.evaluation.metrics import MEAN
from shoal.evaluation.scorers.rating import Scorer
from shoal.prompting.answers import rating
from shoal.prompting.answers.markup import without_reasoning
from shoal.prompting.template import prompt
from shoal.runtime.model import Model, then
from shoal.runtime.types import Completion, Message, Request, SamplingParams

_RUBRIC = "Is the answer right, and does it do what was asked?"
_LONGEST = 20_000  # characters of an answer that the judge is shown, from its end


def judge(*, model: Model, rubric: str = _RUBRIC, scale: int = 10, task: str | None = None) -> Scorer:
    """A model's mark from 0 to `scale`, as a share of it; the model says why before it says how many.

    The judge sees the row (or the column `task` alone), the target as a reference where there is one, the answer
    without its reasoning, and the `rubric`. A mark that cannot be read is asked for once more; if that cannot be read
    either the row has no score, which is not a score of 0.
    """
    if not 1 <= scale <= 100:
        raise UsageError(f"judge(scale={scale}): from 1 to 100")

    async def rate(output: str, _: str | None, target: object, row: Row) -> float | None:
        asked = _asked(output, target, row, task, rubric, scale)
        verdict = await model(asked)
        mark = _mark(verdict, scale)
        if mark is None:
            wish = prompt("score_again").fill({"scale": scale})
            mark = _mark(await model(then(asked, verdict.text[-_LONGEST:] or "(nothing)", wish)), scale)
        return None if mark is None else mark / scale

    return Scorer("judge", rate, metric=MEAN, models=(model,), needs_target=False, columns=(task,) if task else ())


def _asked(output: str, target: object, row: Row, task: str | None, rubric: str, scale: int) -> Request:
    columns = {name: value for name, value in row.items() if name != "id" and (target is None or value is not target)}
    told = str(row.get(task)) if task else "\n".join(f"{name}: {value}" for name, value in columns.items())
    reference = "" if target is None else f"\n<reference>\n{target}\n</reference>\n"
    shown = (without_reasoning(output) or "").strip()[-_LONGEST:].replace("</answer>", "< /answer>")
    gaps = {"task": told, "reference": reference, "answer": shown, "rubric": rubric, "scale": scale}
    text = prompt("score_answer").fill(gaps)
    return Request(messages=(Message("user", text),), params=SamplingParams(temperature=0.0))


def _mark(verdict: Completion, scale: int) -> float | None:
    return None if verdict.finish_reason == "length" else rating(verdict.text, 0.0, float(scale))
