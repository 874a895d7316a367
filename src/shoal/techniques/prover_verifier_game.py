"""Prover-verifier game: provers who help and provers who deceive, and a verifier that must tell them apart.

After arXiv:2407.13692, which trains all three; here they learn from round to round by what they are shown.
"""

from collections.abc import Sequence

from msgspec import Struct, structs

from shoal.errors import TechniqueError, UsageError
from shoal.prompting.answers import extract
from shoal.prompting.template import prompt
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request, Usage, total
from shoal.techniques._conversation import aside, said, transcript, with_system
from shoal.techniques._judging import is_empty, is_whole, score
from shoal.techniques._options import at_least
from shoal.techniques._voting import forms_of, short_answer, support

_SHOWN = 2  # so many solutions of earlier rounds are shown


async def prover_verifier_game(
    model: Model,
    request: Request,
    *,
    rounds: int = 2,
    helpful: int = 3,
    sneaky: int = 3,
    verifier: Model | None = None,
    separation: float = 0.6,
    kind: str = "auto",
) -> Completion:
    """Have answers scored by a verifier that must tell them from deliberately wrong ones, or else is not trusted.

    In each round `helpful` provers solve the question, `sneaky` ones argue for a wrong answer, and the verifier, who is
    not told which is which, reasons about each solution and scores it. Sneaky solutions are never an answer: they only
    measure the verifier. Its scores of a round count where it puts the helpful solution above the sneaky one in at
    least a share of `separation` of all pairs (a tie is half of one); then the solution it rates best wins. Where they
    count in no round, the answer is the one that most helpful solutions agree on. From round to round the verifier sees
    wrong solutions that misled it, and the provers what convinced it.
    """
    _check(rounds, helpful, sneaky, separation)
    extract("", kind)  # an unknown kind is refused here
    played: list[_Round] = []
    for number in range(rounds):
        at = request.draw(number)
        asked = [_ask_helpful(at, played, separation)] * helpful + [_ask_sneaky(at, played, kind)] * sneaky
        replies = await gather(*(model(question.draw(i)) for i, question in enumerate(asked)))
        measuring = _measuring(request, replies, [*_honest(played), *replies[:helpful]], helpful, kind)
        judged = [i for i in range(helpful) if measuring and not is_empty(replies[i])] + measuring
        verdicts = await gather(*((verifier or model)(_ask_verdict(at.draw(i), replies[i], played)) for i in judged))
        scores = {i: s for i, verdict in zip(judged, verdicts, strict=True) if (s := score(verdict)) is not None}
        played.append(_Round(replies, helpful, scores, total(c.usage for c in (*replies, *verdicts))))
        played = [_revised(request, turn, _honest(played), kind) for turn in played]
    best = _best(request, played, separation, kind)
    return structs.replace(best, usage=total(turn.spent for turn in played), answer=short_answer(request, best, kind))


def _check(rounds: int, helpful: int, sneaky: int, separation: float) -> None:
    at_least(1, rounds=rounds, helpful=helpful, sneaky=sneaky)
    if not 0.5 < separation <= 1:
        raise UsageError(f"prover_verifier_game: separation={separation}; it must be above 0.5 (chance) and at most 1")


class _Round(Struct, frozen=True):
    """The replies of one round, first of `helpful` provers, then of sneaky ones, and the scores that could be read."""

    replies: Sequence[Completion]
    helpful: int
    scores: dict[int, float]
    spent: Usage

    @property
    def honest_scores(self) -> list[float]:
        return [points for i, points in self.scores.items() if i < self.helpful]

    @property
    def sneaky_scores(self) -> list[float]:
        return [points for i, points in self.scores.items() if i >= self.helpful]

    def separates(self, least: float) -> bool:
        """Whether the verifier told helpful from sneaky solutions: its area under the curve over all pairs."""
        honest, sneaky = self.honest_scores, self.sneaky_scores
        return bool(honest and sneaky) and sum(_above(points, sneaky) for points in honest) / len(honest) >= least

    def convincing(self) -> list[tuple[float, str]]:
        """The helpful solutions and their scores."""
        return [(points, said(self.replies[i])) for i, points in self.scores.items() if i < self.helpful]

    def misleading(self) -> list[tuple[float, str]]:
        """The sneaky solutions, and their scores, that were rated no lower than helpful ones on the whole."""
        honest = self.honest_scores
        return [
            (points, said(self.replies[i]))
            for i, points in self.scores.items()
            if i >= self.helpful and honest and _above(points, honest) >= 0.5
        ]


def _above(points: float, others: Sequence[float]) -> float:
    """The share of the other scores that this one is above; a tie is half of one."""
    return sum((points > other) + (points == other) / 2 for other in others) / len(others)


def _honest(played: Sequence[_Round]) -> list[Completion]:
    """All helpful replies, in order."""
    return [reply for turn in played for reply in turn.replies[: turn.helpful]]


def _measuring(
    request: Request, replies: Sequence[Completion], honest: Sequence[Completion], helpful: int, kind: str
) -> list[int]:
    """Which sneaky replies of a round can measure the verifier: those that are whole and surely wrong.

    A sneaky prover that comes to the answer that most honest replies agree on, or to none where others come to one, has
    not played its part.
    """
    votes = forms_of(request, honest, kind)
    counts = support(votes)
    believed = {vote for vote, count in zip(votes, counts, strict=True) if vote and count == max(counts)}
    forms = forms_of(request, replies, kind)
    return [
        i
        for i in range(helpful, len(replies))
        if is_whole(replies[i]) and not (believed and (forms[i] is None or forms[i] in believed))
    ]


def _revised(request: Request, turn: _Round, honest: Sequence[Completion], kind: str) -> _Round:
    """An earlier round, without the scores of sneaky replies that later rounds have come to agree with."""
    kept = {*range(turn.helpful), *_measuring(request, turn.replies, honest, turn.helpful, kind)}
    return structs.replace(turn, scores={i: points for i, points in turn.scores.items() if i in kept})


def _ask_helpful(request: Request, played: Sequence[_Round], separation: float) -> Request:
    shown = [pair for turn in played if turn.separates(separation) for pair in turn.convincing()]
    return with_system(request, prompt("prover_verifier_game_helpful").fill({"examples": _examples("helpful", shown)}))


def _ask_sneaky(request: Request, played: Sequence[_Round], kind: str) -> Request:
    honest = _honest(played)
    counts = support(forms_of(request, honest, kind))
    most = max(counts, default=0)
    avoid = ""
    if most:
        believed = short_answer(request, honest[counts.index(most)], kind)
        avoid = "\n\n" + prompt("prover_verifier_game_sneaky_avoid").fill({"answer": believed})
    shown = [pair for turn in played for pair in turn.misleading()]
    gaps = {"avoid": avoid, "examples": _examples("sneaky", shown)}
    return with_system(request, prompt("prover_verifier_game_sneaky").fill(gaps))


def _ask_verdict(request: Request, solution: Completion, played: Sequence[_Round]) -> Request:
    mistakes = _examples("verifier", [pair for turn in played for pair in turn.misleading()])
    gaps = {"conversation": transcript(request), "solution": said(solution), "mistakes": mistakes}
    return aside(request, prompt("prover_verifier_game_verify").fill(gaps), temperature=0.0)


def _examples(whom: str, rated: Sequence[tuple[float, str]]) -> str:
    """The highest rated solutions of earlier rounds, as that player is shown them; nothing where there are none."""
    best = sorted(rated, key=lambda pair: -pair[0])[:_SHOWN]
    if not best:
        return ""
    solutions = "\n\n".join(f"[Scored {points:g}]\n{text}" for points, text in best)
    return "\n\n" + prompt(f"prover_verifier_game_{whom}_examples").fill({"solutions": solutions})


def _best(request: Request, played: Sequence[_Round], separation: float, kind: str) -> Completion:
    """The helpful reply above most sneaky ones of its round, then of the highest score, then of the most agreement.

    Agreement alone decides where no round's scores count. Ties go to a whole reply, then to the earliest.
    """
    counts = iter(support(forms_of(request, _honest(played), kind)))
    ranked = [
        (_standing(turn, i, separation), next(counts), is_whole(reply), reply)
        for turn in played
        for i, reply in enumerate(turn.replies[: turn.helpful])
    ]
    best = max(ranked, key=lambda entry: (not is_empty(entry[3]), *entry[:3]))[3]
    if is_empty(best):
        raise TechniqueError(f"prover_verifier_game: all {len(ranked)} helpful replies are empty")
    return best


def _standing(turn: _Round, i: int, separation: float) -> tuple[float, float]:
    """How a helpful reply stands with a verifier that is trusted: above those that are not or were not rated."""
    if i not in turn.scores or not turn.separates(separation):
        return (-1.0, -1.0)
    return (_above(turn.scores[i], turn.sneaky_scores), turn.scores[i])
