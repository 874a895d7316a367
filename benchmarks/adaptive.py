"""What stopping a vote early saves, and how often it changes the answer: python -m benchmarks.adaptive [QUESTIONS].

JSON lines, one for each rule on each mix of questions: a simulation of self-consistency's own rules, without a model.
A question is a distribution over answers; its samples are drawn from it and shown to the rule in their order, as
`self_consistency(n=40, stop=RULE, confidence=0.95, ahead=4)` would see them if all calls took equally long. `samples`
are those the decision rests on, `asked` those paid for (started ahead as well), `waves` the calls one after another.
`other_answer` is how often the answer is not that of the full vote over all n, and `not_likeliest` how often it is not
an answer that the distribution makes likeliest (of the full vote: `full_not_likeliest`); with 95 % intervals (Wilson).
"""

import json
import math
import random
import sys

from shoal.techniques._stopping import RULES, Vote

N, CONFIDENCE, AHEAD = 40, 0.95, 4
MIXES = ("easy", "medium", "hard", "uniform", "two nearly equal")
# What the rules' papers say they save; the settings and data are theirs.
PUBLISHED = {
    "settled": None,
    "beta": "arXiv:2305.11860: up to 7.9 times fewer samples, average accuracy drop below 0.1 %",
    "martingale": None,  # arXiv:2510.17472 has a related rule; no figure of it can be compared with these
}


def distribution(mix: str, chance: random.Random) -> list[float]:
    """The probabilities of a question's answers, the likeliest first."""
    if mix == "uniform":
        answers = chance.randint(2, 10)
        return [1 / answers] * answers
    if mix == "two nearly equal":
        return [0.51, 0.49]
    low, high, others = {"easy": (0.8, 1.0, 3), "medium": (0.5, 0.8, 5), "hard": (0.25, 0.5, 8)}[mix]
    top = chance.uniform(low, high)
    parts = [chance.random() for _ in range(others)]
    rest = [(1 - top) * part / sum(parts) for part in parts]
    return sorted([top, *rest], reverse=True)


def winner(votes: list[int]) -> int:
    """The answer with the most votes, the earliest of those."""
    return max(votes, key=votes.count)


def voted(rule: str, votes: list[int]) -> tuple[object, int, int, int]:
    """The answer, the samples it rests on, those asked, and the waves they were asked in."""
    vote = Vote(len(votes), rule, CONFIDENCE, AHEAD)
    asked = waves = 0
    while (goal := vote.count(votes[vote.samples : asked])) > vote.samples:
        asked = max(asked, goal)
        waves += 1
    return vote.leader, vote.samples, asked, waves


def interval(hits: int, trials: int) -> list[float]:
    """Wilson's 95 % interval of a share."""
    z, share = 1.96, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return [round(max(0.0, middle - half), 4), round(middle + half, 4)]


def simulated(rule: str, mix: str, questions: int) -> dict[str, object]:
    chance = random.Random(f"{mix}")  # the same questions and samples for every rule
    samples = asked = waves = other = wrong = full_wrong = 0
    for _ in range(questions):
        weights = distribution(mix, chance)
        votes = chance.choices(range(len(weights)), weights, k=N)
        answer, used, started, steps = voted(rule, votes)
        full = winner(votes)
        likeliest = [i for i, weight in enumerate(weights) if weight == max(weights)]
        samples, asked, waves = samples + used, asked + started, waves + steps
        other += answer != full
        wrong += answer not in likeliest
        full_wrong += full not in likeliest
    return {
        "samples": round(samples / questions, 2),
        "times_fewer": round(N * questions / samples, 2),
        "asked": round(asked / questions, 2),
        "waves": round(waves / questions, 2),
        "other_answer": other / questions,
        "other_answer_95": interval(other, questions),
        "not_likeliest": wrong / questions,
        "not_likeliest_95": interval(wrong, questions),
        "full_not_likeliest": full_wrong / questions,
    }


def main() -> None:
    questions = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for mix in MIXES:
        for rule in RULES:
            row = {"benchmark": "adaptive", "mix": mix, "rule": rule, "n": N, "confidence": CONFIDENCE}
            figures = simulated(rule, mix, questions)
            print(json.dumps({**row, "questions": questions, **figures, "published": PUBLISHED[rule]}), flush=True)


if __name__ == "__main__":
    main()
