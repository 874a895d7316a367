"""Monte Carlo tree search over partial solutions, by UCT (arXiv:2305.14992, with a judge's score as the reward)."""

from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct, structs

from shoal.errors import TechniqueError, UsageError
from shoal.prompting.answers import extract
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request
from shoal.techniques import _tree
from shoal.techniques._judging import is_whole, score
from shoal.techniques._options import at_least
from shoal.techniques._spending import Spending
from shoal.techniques._steps import (
    ask_answer,
    ask_step,
    ask_step_rating,
    is_answer,
    is_final,
    joined,
    said_step,
    wording,
    write_answer,
)
from shoal.techniques._tree import Node, Selected
from shoal.techniques._voting import answer_and_form

Verifier = Callable[[Completion], float | None]


async def monte_carlo_tree_search(  # noqa: PLR0913 - the search's own parameters
    model: Model,
    request: Request,
    *,
    simulations: int = 8,
    branching: int = 3,
    depth: int = 4,
    exploration: float = 1.4,
    parallel: int = 4,
    value: str = "judge",
    rollout: bool = False,
    judge: Model | None = None,
    verifier: Verifier | None = None,
    kind: str = "auto",
) -> Completion:
    """Search a tree of solution steps by UCT, and answer from the path that was visited most.

    A node has up to `branching` different next steps, and a path up to `depth` of them. What a simulation is worth is
    said by `value`: "judge" has a judge score the path from 0 to 10 (with `rollout` after going on to a final step);
    "agreement" writes an answer from it and takes the share of all answers so far that are the same. From Python,
    `verifier(answer)` gives that answer's worth from 0 to 1, or None, in place of both. Simulations run in waves of
    `parallel` under virtual loss.
    """
    at_least(1, simulations=simulations, branching=branching, depth=depth, parallel=parallel)
    branching = min(branching, simulations)  # no node is tried more often
    at_least(0, exploration=exploration)
    if value not in ("judge", "agreement"):
        raise UsageError(f"value={value!r}: must be 'judge' or 'agreement'")
    extract("", kind)  # an unknown kind is refused here
    by: Literal["judge", "answer"] = "judge" if value == "judge" and verifier is None else "answer"
    spending = Spending()
    asked, judging = spending.on(model), spending.on(judge or model)
    steps = _Steps(asked, request, branching, depth, rollout or by == "answer", judging, by, verifier, kind)
    root = Node(_Partial(()), [_STEP] * branching)
    await _tree.search(root, simulations, parallel, exploration, steps.expand, steps.rewards)
    best = _tree.most_visited(root).content
    if not best.steps:
        raise TechniqueError("each first step that the model gave was blank or cut off")
    answer = best.answer if best.answer and best.is_answered else await steps.answer(best.whole, last=True)
    return structs.replace(answer, answer=best.short or answer.answer, usage=spending.usage)


_STEP = "step"


class _Partial(Struct, frozen=True):
    """A partial solution: its steps, those of its rollout, the answer they give, and what that is worth."""

    steps: tuple[str, ...]
    rest: tuple[str, ...] = ()
    answer: Completion | None = None
    short: str | None = None
    form: str | None = None
    worth: float | None = None

    @property
    def whole(self) -> tuple[str, ...]:
        return self.steps + self.rest

    @property
    def is_answered(self) -> bool:
        """Whether its answer is there and whole."""
        return self.answer is not None and is_whole(self.answer)


class _Steps(Struct):
    """How the tree of one question grows."""

    model: Model
    request: Request
    branching: int
    depth: int
    rollout: bool
    judge: Model
    by: Literal["judge", "answer"]
    verifier: Verifier | None
    kind: str

    async def expand(self, node: Node[_Partial], actions: Sequence[Selected[_Partial]]) -> list[Node[_Partial]]:
        """The next steps drawn at one node. One that is worded like a sibling is that sibling, and asked no further."""
        path = node.content.steps
        steps = await gather(*(self.step(path, action.number) for action in actions))
        nodes: dict[str | None, Node[_Partial]] = {wording(n.content.steps[-1]): n for n in node.children}
        forms = [None if step is None else wording(step) for step in steps]
        first = _tree.first_of_each(forms, nodes)
        places = [(*node.place, actions[i].number) for i in first.values()]
        found = [(*path, steps[i] or "") for i in first.values()]
        partials = await gather(*(self.valued(each, place) for each, place in zip(found, places, strict=True)))
        for form, place, partial in zip(first, places, partials, strict=True):
            ends = is_final(partial.steps[-1]) or len(partial.steps) == self.depth
            nodes[form] = node.grow(place[-1], partial, () if ends else [_STEP] * self.branching)
        if not node.children:  # what did not come is asked for again only where nothing else came
            node.untried += [_STEP] * len(actions)
        return [nodes.get(form, node) for form in forms]

    async def step(self, path: tuple[str, ...], *draw: int) -> str | None:
        """The next step; None where none came: a blank one, or one that was cut off."""
        reply = await self.model(ask_step(self.request, path).draw(*draw))
        return None if reply.finish_reason == "length" else said_step(reply) or None

    async def valued(self, path: tuple[str, ...], place: tuple[int, ...]) -> _Partial:
        """A new partial solution, continued where that is asked for, and what it is worth."""
        whole = path
        while self.rollout and len(whole) < self.depth and not is_final(whole[-1]):
            step = await self.step(whole, self.branching, *place)
            if step is None:
                break
            whole = (*whole, step)
        partial = _Partial(path, whole[len(path) :])
        if self.by == "judge":
            verdict = await self.judge(ask_step_rating(self.request, whole))
            points = score(verdict)
            return structs.replace(partial, worth=None if points is None else points / 10)
        answer = await self.answer(whole, *place)
        short, form = answer_and_form(self.request, answer, self.kind)
        worth = _verified(self.verifier, answer) if self.verifier else None
        return structs.replace(partial, answer=answer, short=short, form=form, worth=worth)

    async def answer(self, path: tuple[str, ...], *draw: int, last: bool = False) -> Completion:
        """The answer that the steps are, or else one written from them."""
        if is_answer(self.request, path):
            return Completion(joined(path))
        if not last:
            return await self.model(ask_answer(self.request, path).draw(*draw))
        return await write_answer(self.model, self.request, path)

    def rewards(self, leaves: Sequence[Node[_Partial]]) -> list[float | None]:
        """What the simulations that ended in these leaves are worth."""
        if self.by == "judge" or self.verifier:
            return [leaf.content.worth for leaf in leaves]
        return _tree.agreement(leaves, lambda partial: partial.form)


def _verified(verifier: Verifier, answer: Completion) -> float | None:
    worth = verifier(answer)
    if worth is not None and not 0 <= worth <= 1:
        raise UsageError(f"the verifier gave {worth}: an answer's worth is from 0 to 1")
    return worth
