"""rStar: a tree search over human-like reasoning actions, then a second model's consent (arXiv:2408.06195)."""

import re
from collections.abc import Sequence
from random import Random

from msgspec import Struct, structs

from shoal.errors import TechniqueError
from shoal.prompting.answers import extract
from shoal.prompting.template import prompt
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request
from shoal.techniques import _tree
from shoal.techniques._conversation import instructed, thinking
from shoal.techniques._options import at_least
from shoal.techniques._spending import Spending
from shoal.techniques._steps import (
    FINAL_ANSWER,
    ask_step,
    is_answer,
    is_final,
    joined,
    numbered,
    said_step,
    wording,
    write_answer,
)
from shoal.techniques._tree import Node, Selected
from shoal.techniques._voting import answer_and_form

STEP, FINISH, SUBQUESTION, REANSWER, REPHRASE = "A1", "A2", "A3", "A4", "A5"  # as the paper numbers them


async def rstar(  # noqa: PLR0913 - the search's own parameters
    model: Model,
    request: Request,
    *,
    rollouts: int = 16,
    branching: int = 2,
    depth: int = 5,
    exploration: float = 1.4,
    parallel: int = 4,
    discriminator: Model | None = None,
    kind: str = "auto",
) -> Completion:
    """Search the trajectories of five reasoning actions, and keep one that a second model arrives at as well.

    The actions: one step (A1), all remaining steps (A2), the next sub-question with its answer (A3), that answer once
    more (A4, after A3 only), the task in other words (A5, at the start only). A1 and A3 are drawn `branching` times at
    a node, the others once. Each rollout ends in an answer, within `depth` actions; its reward is the share of all
    answers so far that are the same. Then the `discriminator` (else the same model) goes on from the beginning of each
    trajectory; those for which it comes to the same answer go before the others.
    """
    at_least(1, rollouts=rollouts, branching=branching, depth=depth, parallel=parallel)
    branching = min(branching, rollouts)  # no node is tried more often
    at_least(0, exploration=exploration)
    extract("", kind)  # an unknown kind is refused here
    spending = Spending()
    search = _Search(spending.on(model), request, branching, depth, kind)
    root = Node(_Thought("", ()), search.actions("", 0))
    leaves = await _tree.search(root, rollouts, parallel, exploration, search.expand, search.rewards)
    ends = [leaf for leaf in dict.fromkeys(leaves) if leaf.content.reply]
    if not ends:
        raise TechniqueError(f"none of {rollouts} rollouts came to an end: replies were blank or cut off")
    best = await search.chosen(ends, spending.on(discriminator or model))
    answer = await search.answer(best.content)
    return structs.replace(answer, answer=best.content.short or answer.answer, usage=spending.usage)


class _Thought(Struct, frozen=True):
    """What an action led to: all steps up to it and, at the end of a trajectory, its last reply and short answer.

    It is lost where nothing came of it: the reply was blank, or a step that was cut off.
    """

    action: str
    steps: tuple[str, ...]
    reply: Completion | None = None
    short: str | None = None
    form: str | None = None
    lost: bool = False


class _Search(Struct):
    """How the tree of one question grows, and whose trajectory is chosen."""

    model: Model
    request: Request
    branching: int
    depth: int
    kind: str

    def actions(self, last: str, taken: int) -> list[str]:
        """What may follow action `last` after `taken` of them: each once, then A1 and A3 again."""
        if taken >= self.depth - 1:
            return [FINISH]  # so that every trajectory ends in an answer
        special = {SUBQUESTION: [REANSWER], "": [REPHRASE]}.get(last, [])
        return [STEP, FINISH, SUBQUESTION, *special, *[STEP, SUBQUESTION] * (self.branching - 1)]

    async def expand(self, node: Node[_Thought], actions: Sequence[Selected[_Thought]]) -> list[Node[_Thought]]:
        """Carry out actions at one node, and go on to an answer from each; the ends of these rollouts.

        A step that is worded like one that the same action gave before is that one, and leads where it led.
        """
        thoughts = await gather(*(self.thought(node, a.action or "", a.number) for a in actions))
        keys = [None if t.lost else (t.action, wording(t.steps[-1])) for t in thoughts]
        known = {
            (n.content.action, wording(n.content.steps[-1])): _rollout_end(n)
            for n in node.children
            if not n.content.lost
        }
        first = _tree.first_of_each(keys, known)
        begun = [self.grown(node, actions[i].number, thoughts[i]) for i in first.values()]
        known.update(zip(first, await gather(*map(self.roll_out, begun)), strict=True))
        return [
            known[key] if key else self.grown(node, action.number, thought)
            for key, action, thought in zip(keys, actions, thoughts, strict=True)
        ]

    async def roll_out(self, node: Node[_Thought]) -> Node[_Thought]:
        """Go on by random actions to an answer; the node where it ends. All that was thought stays in the tree."""
        while node.untried:
            action = Random(repr((self.request.sample, node.place))).choice(sorted(set(node.untried)))
            number = node.take(action)
            node = self.grown(node, number, await self.thought(node, action, number))
        return node

    def grown(self, node: Node[_Thought], number: int, thought: _Thought) -> Node[_Thought]:
        taken = len(node.place) + 1
        ends = thought.lost or thought.reply is not None
        return node.grow(number, thought, [] if ends else self.actions(thought.action, taken))

    async def thought(self, node: Node[_Thought], action: str, number: int) -> _Thought:
        """Carry out one action."""
        steps = node.content.steps
        reply = await self.model(self.asked(action, steps).draw(*node.place, number))
        cut_off, text = reply.finish_reason == "length", said_step(reply)
        if not text or (cut_off and action != FINISH):
            return _Thought(action, steps, lost=True)
        if action == REANSWER:
            return _Thought(
                action, (*steps[:-1], f"{_question(steps[-1])}\nAnswer: {text.removeprefix('Answer:').strip()}")
            )
        steps = (*steps, f"The task in other words: {text}" if action == REPHRASE else text)
        if action != FINISH and not (action in (STEP, SUBQUESTION) and is_final(text)):
            return _Thought(action, steps)
        short, form = self.read(reply)
        return _Thought(action, steps, reply, short, form)

    def asked(self, action: str, steps: Sequence[str]) -> Request:
        if action == STEP:
            return ask_step(self.request, steps)
        if action == REPHRASE:
            return instructed(thinking(self.request), prompt("rstar_rephrase").fill({}))
        if action == REANSWER:  # without the answer it had: it is to be thought through afresh
            gaps = {"steps": numbered(steps[:-1]) or "(none yet)", "question": _question(steps[-1])}
            return instructed(thinking(self.request), prompt("rstar_reanswer").fill(gaps))
        name = "rstar_finish" if action == FINISH else "rstar_subquestion"
        return instructed(thinking(self.request), prompt(name).fill({"steps": numbered(steps) or "(none yet)"}))

    def read(self, reply: Completion) -> tuple[str | None, str | None]:
        """The short answer of a trajectory's last reply, and its form to compare."""
        plain = thinking(self.request)  # steps are not of the form that was asked for
        return answer_and_form(plain, reply, self.kind)

    def rewards(self, leaves: Sequence[Node[_Thought]]) -> list[float | None]:
        return _tree.agreement(leaves, lambda thought: thought.form)

    async def chosen(self, ends: Sequence[Node[_Thought]], discriminator: Model) -> Node[_Thought]:
        """The trajectory with the highest reward times confidence, of those that the discriminator agrees with.

        A trajectory's reward is the mean of its steps' values in the tree, its confidence the share of answers like
        its own. Where the discriminator agrees with none, all are in the choice; where no answer can be read, there is
        nothing to compare, and the earliest that is whole is taken.
        """
        answered = [end for end in ends if end.content.form is not None]
        if not answered:
            return min(ends, key=lambda end: bool(end.content.reply and end.content.reply.finish_reason == "length"))
        replies = await gather(*(discriminator(self.masked(end)) for end in answered))
        agreed = [e for e, reply in zip(answered, replies, strict=True) if self.read(reply)[1] == e.content.form]
        shares = dict(zip(answered, self.rewards(answered), strict=True))
        return max(agreed or answered, key=lambda end: _reward(end) * (shares[end] or 0.0))

    def masked(self, end: Node[_Thought]) -> Request:
        """The wish to go on from the beginning of a trajectory: from 20 to 80 percent of it, at random."""
        pieces = _pieces(end.content.steps)
        n = len(pieces)
        shown = Random(repr((self.request.sample, end.place))).randint(-(-n // 5), n * 4 // 5) if n > 1 else 0
        wish = prompt("rstar_finish").fill({"steps": "".join(pieces[:shown]).strip() or "(none yet)"})
        return instructed(thinking(self.request), wish).draw(*end.place, 0)

    async def answer(self, thought: _Thought) -> Completion:
        """The trajectory's text, or an answer written from it where the user asked for more than text."""
        whole = thought.reply is not None and thought.reply.finish_reason != "length"
        if whole and is_answer(self.request, thought.steps):
            return Completion(joined(thought.steps))
        return await write_answer(self.model, self.request, thought.steps)


_ANSWER = re.compile(r"^[ \t*_#>]*answer\b[*_\s]*:", re.IGNORECASE | re.MULTILINE)
_PIECE = re.compile(r"\S.*?(?:[.!?](?=\s)|$)\s*", re.MULTILINE)


def _rollout_end(node: Node[_Thought]) -> Node[_Thought]:
    """Where the rollout that found this node ended: what it thought are the first children."""
    while node.children:
        node = node.children[0]
    return node


def _question(step: str) -> str:
    """The sub-question of a step that asks and answers one."""
    answer = _ANSWER.search(step)
    return step[: answer.start()].strip() if answer else step


def _pieces(steps: Sequence[str]) -> list[str]:
    """A trajectory as sentences and lines, without the final answer it states."""
    text = joined(steps)
    final = FINAL_ANSWER.search(text)
    return _PIECE.findall(text[: final.start()] if final else text)


def _reward(end: Node[_Thought]) -> float:
    steps = end.path[1:]
    return sum(node.mean for node in steps) / len(steps)
