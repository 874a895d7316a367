"""One budget over all rows, beside the even split of it: python -m benchmarks.allocation [simulated|shipped ...].

JSON lines. Every arm spends at most the tokens of `even`, which takes the same number of samples of each row (`mean`),
and sees the same draws in the same order:

- `settled`, `beta`: each row's vote stops by that rule (confidence 0.95); the most samples a row may get is chosen in
  hindsight, so that the tokens are spent as fully as can be.
- `allocated`: what `shoal run --allocate` does, by its own code; at most four times `mean` samples a row.
- `hindsight`: no rule can be better. It knows at which number of samples each row is right, and takes the cheapest
  ones first.

`right` is the share of rows whose answer is the right one. `over_even` is the difference to `even` in the same rows,
with its 95 % interval: in simulation by a bootstrap over seeds and rows, on shipped data as `shoal compare` says it.

simulated: rows are distributions over answers of many kinds. The right answer is the likeliest one, but in `wrong
majority`, where it is the second for 40 % of the rows. Each sample pays its prompt, but where rows are said to have it
`paid once`: then samples taken together are one request, as where a server gives several for one prompt. The even split
makes one request a row, an allocated vote comes back and pays the prompt again.

shipped: the embedded model on data sets that ship, its answer constrained to their labels, in a whole run of each arm.
Every draw is made once, and costs its prompt and its reply in each arm that takes it. Then all arms in simulation over
the first 16 draws of each row of data/sentiment, drawn again with replacement.
"""

import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET, structs

from shoal.backends import BaseModel
from shoal.backends.embedded import EmbeddedBackend
from shoal.batch.allocation import Allocation, calls_of_a_sample
from shoal.batch.directory import RunDirectory
from shoal.batch.records import decode
from shoal.batch.rows import Input
from shoal.batch.runner import BatchRun
from shoal.evaluation.comparing.statistics import Figures, Rated, wilson
from shoal.evaluation.datasets.naming import data_path
from shoal.evaluation.metrics import ACCURACY
from shoal.runtime.backend import Draws, Outcome
from shoal.runtime.budget import Budget
from shoal.runtime.model import apply
from shoal.runtime.types import Completion, Request, Usage
from shoal.techniques._allocated import allocated, vote_of_many
from shoal.techniques._stopping import Vote
from shoal.techniques.self_consistency import self_consistency

MEANS = (2, 4, 8, 16)
MOST = 64
ROWS, SEEDS = 300, 3


class Item(NamedTuple):
    """A row: what its draws answer (None: unreadable), what they cost, the longest reply, and the right answer.

    With `once`, samples taken together are one request, and their prompt is paid once.
    """

    answers: list[object]
    prompt_tokens: int
    tokens: list[int]
    longest: int
    right: object
    once: bool = False

    def cost(self, samples: int) -> int:
        """Of so many samples taken together."""
        return (1 if self.once else samples) * self.prompt_tokens + sum(self.tokens[:samples])

    def is_right(self, samples: int) -> bool:
        votes = [answer for answer in self.answers[:samples] if answer is not None]
        return bool(votes) and max(votes, key=votes.count) == self.right


# What rows are like

Weights = Callable[[random.Random], list[float]]


def _two(chance: random.Random) -> list[float]:
    share = chance.betavariate(2, 1.5)
    return [share, 1 - share]


def _dirichlet(chance: random.Random) -> list[float]:
    spread = chance.choice([0.2, 0.5, 1.0, 2.0])
    parts = [chance.gammavariate(spread, 1) for _ in range(6)]
    return [part / sum(parts) for part in parts]


def _many(chance: random.Random) -> list[float]:
    top, parts = chance.uniform(0.1, 1), [chance.gammavariate(0.5, 1) for _ in range(20)]
    return [top, *((1 - top) * part / sum(parts) for part in parts)]


def _easy_and_hard(chance: random.Random) -> list[float]:
    return [0.98, 0.02] if chance.random() < 0.7 else [0.55, 0.45]


MIXES: dict[str, Weights] = {
    "two answers": _two,
    "six answers": _dirichlet,
    "many answers": _many,
    "easy and hard": _easy_and_hard,
    "all equally hard": lambda _: [0.51, 0.49],
    "all equally fair": lambda _: [0.5, 0.25, 0.25],
    "wrong majority": _two,
    "unreadable": _two,
    "unequal lengths": _two,
    "prompt of half a reply, paid once": _two,
    "prompt of two replies, paid once": _two,
    "prompt of ten replies, paid once": _two,
}
PROMPTS = {"half a reply": 50, "two replies": 200, "ten replies": 1000}


def item(mix: str, chance: random.Random) -> Item:
    weights = sorted(MIXES[mix](chance), reverse=True)
    answers: list[object] = list(chance.choices(range(len(weights)), weights, k=MOST))
    right = 1 if mix == "wrong majority" and chance.random() < 0.4 else 0
    if mix == "unreadable":
        readable = chance.choice([0.0, 0.3, 0.7, 1.0])
        answers = [answer if chance.random() < readable else None for answer in answers]
    length = 100.0
    if mix == "unequal lengths":  # from 20 to 800 tokens or so, and longer where it is harder
        length = 60 * 2 ** chance.gauss(4 * (1 - weights[0]), 1.5)
    tokens = [max(1, min(2000, round(length * chance.uniform(0.5, 1.5)))) for _ in answers]
    prompt = next((tokens for words, tokens in PROMPTS.items() if words in mix), 50)
    longest = 2000 if mix == "unequal lengths" else 150
    return Item(answers, prompt, tokens, longest, right, once=mix.endswith("paid once"))


def drawn_again(items: Sequence[Item], chance: random.Random) -> list[Item]:
    """Rows whose answers are drawn with replacement from those that a model gave."""
    found = []
    for one in items:
        places = chance.choices(range(len(one.answers)), k=MOST)
        answers, tokens = [one.answers[i] for i in places], [one.tokens[i] for i in places]
        found.append(one._replace(answers=answers, tokens=tokens))
    return found


# Arms: the samples that each row gets


def even(items: Sequence[Item], mean: int) -> list[int]:
    return [mean] * len(items)


def stopped(rule: str, items: Sequence[Item], mean: int) -> list[int]:
    """By a rule, with the most samples a row that the tokens of the even split buy; the first rows get one more."""
    tokens, best = sum(one.cost(mean) for one in items), [1] * len(items)
    for most in range(2, MOST + 1):
        left = tokens - sum(one.cost(n) for one, n in zip(items, best, strict=True))
        for i, one in enumerate(items):
            more = _until_decided(rule, one, most)
            extra = one.cost(more) - one.cost(best[i])
            if extra > left:
                return best
            left, best[i] = left - extra, more
    return best


def _until_decided(rule: str, one: Item, most: int) -> int:
    vote = Vote(most, rule, 0.95)
    while vote.samples < most and not vote.is_decided:
        vote.add(one.answers[vote.samples])
    return vote.samples


def shared_out(items: Sequence[Item], mean: int) -> list[int]:
    """By the code of `--allocate`, in rounds over rows that all wait at once."""
    budget = Budget(tokens=sum(one.cost(mean) for one in items))
    return asyncio.run(_shared_out(items, mean, budget))


async def _shared_out(items: Sequence[Item], mean: int, budget: Budget) -> list[int]:
    allocation = Allocation(budget, len(items), once=items[0].once)

    async def row(number: int, one: Item) -> int:
        usage, paid = Usage(), 0
        seat = allocation.seat(number, lambda: usage)

        async def draw(i: int) -> Completion:
            nonlocal usage, paid
            prompt = 0 if one.once and paid == allocation.rounds else one.prompt_tokens
            paid = allocation.rounds
            cost = Usage(prompt, one.tokens[i], 1)
            usage = usage + cost
            return Completion("", usage=cost, answer=str(i))

        def read(replies: Sequence[Completion]) -> list[object]:
            return [one.answers[int(reply.answer or 0)] for reply in replies]

        request = Request(prompt="text" * one.prompt_tokens).with_params(max_tokens=one.longest)
        vote = vote_of_many(min(mean, MOST // 4), None, 0.95, 4)
        samples = await allocated(seat, request, draw, read, vote)
        seat.leave(answered=True)
        return len(samples)

    return list(await asyncio.gather(*(row(number, one) for number, one in enumerate(items))))


def hindsight(items: Sequence[Item], mean: int) -> list[int]:
    left = sum(one.cost(mean) - one.cost(1) for one in items)
    samples = [1] * len(items)
    extra = []
    for i, one in enumerate(items):
        first = next((n for n in range(1, MOST + 1) if one.is_right(n)), None)
        if first is not None:
            extra.append((one.cost(first) - one.cost(1), i, first))
    for cost, i, first in sorted(extra):
        if cost <= left:
            left, samples[i] = left - cost, first
    return samples


Arm = Callable[[Sequence[Item], int], list[int]]
ARMS: dict[str, Arm] = {
    "even": even,
    "settled": lambda items, mean: stopped("settled", items, mean),
    "beta": lambda items, mean: stopped("beta", items, mean),
    "allocated": shared_out,
    "hindsight": hindsight,
}


# Simulation


def simulated(mix: str, mean: int, sets: Sequence[Sequence[Item]]) -> Iterator[dict[str, object]]:
    right: dict[str, Any] = {}
    for name, arm in ARMS.items():
        if sets[0][0].once and name not in ("even", "allocated"):
            continue
        taken = [arm(items, mean) for items in sets]
        pairs = [list(zip(items, counts, strict=True)) for items, counts in zip(sets, taken, strict=True)]
        right[name] = np.array([[one.is_right(n) for one, n in each] for each in pairs], dtype=float)
        spent = sum(one.cost(n) for each in pairs for one, n in each)
        share = spent / sum(one.cost(mean) for items in sets for one in items)
        yield {
            "benchmark": "allocation",
            "rows_are": mix,
            "mean": mean,
            "arm": name,
            "rows": right[name].size,
            "right": round(float(right[name].mean()), 4),
            "over_even": round(float((right[name] - right["even"]).mean()), 4),
            "over_even_95": bootstrapped(right[name] - right["even"]),
            "tokens_of_even": None if sets[0][0].once else round(share, 4),
            "samples": [min(map(min, taken)), round(float(np.mean(taken)), 2), max(map(max, taken))],
        }


def bootstrapped(differences: Any, replicates: int = 2000) -> list[float]:
    """The interval of a mean over seeds (lines) and rows (columns), both drawn again."""
    chance = np.random.default_rng(0)
    seeds, rows = differences.shape
    means = [
        float(np.mean([chance.choice(differences[seed], rows) for seed in chance.integers(0, seeds, seeds)]))
        for _ in range(replicates)
    ]
    return [round(float(end), 4) for end in np.quantile(means, [0.025, 0.975])]


def simulate(mixes: Sequence[str]) -> None:
    for mix in mixes:
        chances = [random.Random(f"{mix} {seed}") for seed in range(SEEDS)]
        sets = [[item(mix, chance) for _ in range(ROWS)] for chance in chances]
        for mean in MEANS:
            for line in simulated(mix, mean, sets):
                print(json.dumps(line), flush=True)


# The data that ship

SHIPPED = {
    "sentiment": "Is this review positive or negative? Answer with one word.\n{review}",
    "kinds": "Is {word} an animal, a fruit, a tool, clothing or a vehicle? Answer with one word.",
}
TARGETS = {"sentiment": "sentiment", "kinds": "kind"}


class Kept:
    """A backend whose draws are made once, and cost the same each time they are asked for."""

    def __init__(self, backend: EmbeddedBackend) -> None:
        self.model, self.backend = BaseModel(backend), backend
        self.identity, self.name = f"kept {backend.identity}", backend.name
        self.capabilities = structs.replace(backend.capabilities, max_n=1, max_in_flight=1 << 20)
        self.draws: dict[Request, Completion] = {}
        self.prompts: dict[Request, int] = {}

    async def make(self, requests: Sequence[Request], n: int) -> None:
        """The first n draws of each, those of one request together."""
        await asyncio.gather(*(self._draw(request.draw(i)) for request in requests for i in range(n)))

    async def _draw(self, request: Request) -> Completion:
        if request not in self.draws:
            question = request.question()
            if question not in self.prompts:
                self.prompts[question] = await self.backend.count_tokens(question)
            reply = await self.model.scheduler(request)  # past the journal and the budget of the run that asks
            usage = Usage(self.prompts[question], reply.usage.completion_tokens, 1)
            self.draws[request] = structs.replace(reply, usage=usage)
        return self.draws[request]

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        return [[await self._draw(draws.request)] for draws in batch]

    async def aclose(self) -> None:
        await self.backend.aclose()


def question(name: str, row: dict[str, Any]) -> Request:
    text = SHIPPED[name].format(**row)
    return Request.of(text, temperature=0.8, max_tokens=6, choices=row["options"])


async def shipped(name: str, means: Sequence[int]) -> list[Item]:
    """Each arm as a run of its own; prints its line, and returns the rows with their draws."""
    rows = Input(data_path(f"data/{name}"))
    backend = Kept(EmbeddedBackend())
    requests = {str(row["id"]): question(name, row) for row in rows}
    try:
        await backend.make(list(requests.values()), max(means))
        for mean in means:
            arms = {"even": await carried_out(name, rows, backend, mean, None)}
            arms["allocated"] = await carried_out(name, rows, backend, mean, Budget(tokens=arms["even"][1]))
            for line in told(name, mean, arms):
                print(json.dumps(line), flush=True)
    finally:
        await backend.aclose()
    n, target = max(means), TARGETS[name]
    return [_item(backend, request, n, row[target]) for request, row in zip(requests.values(), rows, strict=True)]


async def carried_out(
    name: str, rows: Input, backend: Kept, mean: int, budget: Budget | None
) -> tuple[list[float], int, list[int]]:
    """A whole run: the score of each row, the tokens spent, and the samples of each row."""
    model = apply(self_consistency, BaseModel(backend), n=mean)

    async def judge(completion: Completion, row: dict[str, Any]) -> tuple[str | None, float]:
        return completion.answer, float(completion.answer == row[TARGETS[name]])

    with tempfile.TemporaryDirectory() as place, RunDirectory(Path(place), {}, rows) as directory:
        batch = BatchRun(directory, rows, model="local", technique=None, window=64, judge=judge)
        batch.allocation = Allocation(budget, rows.count, calls_of_a_sample(model)) if budget else None
        await batch.execute(lambda row: model(question(name, row)), budget)
        records = [decode(line) for line in batch.lines()]
    assert all(record.error is None for record in records)
    scores = [0.0 if record.score is UNSET else float(record.score) for record in records]
    tokens = sum(record.usage.prompt_tokens + record.usage.completion_tokens for record in records)
    return scores, tokens, [record.usage.calls for record in records]


def told(name: str, mean: int, arms: dict[str, tuple[list[float], int, list[int]]]) -> Iterator[dict[str, object]]:
    rated = [Rated(scores, [(score, 1.0) for score in scores]) for scores, _, _ in arms.values()]
    figures = Figures(ACCURACY, rated)
    for i, (arm, (scores, tokens, samples)) in enumerate(arms.items()):
        test = figures.test(0, i)
        right = sum(scores) / len(scores)
        share = wilson(right, len(scores))
        yield {
            "benchmark": "allocation",
            "rows_are": f"data/{name}, local",
            "mean": mean,
            "arm": arm,
            "rows": len(scores),
            "right": round(right, 4),
            "right_95": [round(share.low, 4), round(share.high, 4)],
            "over_even": round(test.value, 4),
            "over_even_95": [round(test.interval.low, 4), round(test.interval.high, 4)],
            "p": round(test.p, 4),
            "tokens_of_even": round(tokens / arms["even"][1], 4),
            "samples": [min(samples), round(sum(samples) / len(samples), 2), max(samples)],
        }


def _item(backend: Kept, request: Request, n: int, right: object) -> Item:
    draws = [backend.draws[request.draw(i)] for i in range(n)]
    usages = [draw.usage for draw in draws]
    answers: list[object] = [draw.text.strip() for draw in draws]
    return Item(answers, usages[0].prompt_tokens, [usage.completion_tokens for usage in usages], 6, right)


def main() -> None:
    asked = sys.argv[1:] or ["simulated", "shipped"]
    if "simulated" in asked:
        simulate(list(MIXES))
    if "shipped" in asked:
        items = asyncio.run(shipped("sentiment", (2, 4, 8, 16)))
        asyncio.run(shipped("kinds", (2, 4, 8)))
        sets = [drawn_again(items, random.Random(seed)) for seed in range(SEEDS)]
        for mean in MEANS:
            for line in simulated("shipped draws", mean, sets):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
