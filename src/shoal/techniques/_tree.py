"""Monte Carlo tree search: a tree of partial solutions, descents by UCT, and simulations in parallel waves."""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Hashable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from shoal.runtime.concurrency import gather

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class Node(Generic[T]):
    """A partial solution. It is expanded by the actions in `untried`; without any, and childless, it is an end.

    `place` says which draws lead here from the root. `visits` counts the simulations that came through, `scored` those
    of them whose reward is known, and `total` sums these rewards.
    """

    def __init__(
        self, content: T, untried: Iterable[str] = (), parent: "Node[T] | None" = None, place: tuple[int, ...] = ()
    ) -> None:
        self.content = content
        self.untried = list(untried)
        self.parent = parent
        self.place = place
        self.children: list[Node[T]] = []
        self.asked = 0  # actions taken so far: the number of each names its draw
        self.pending = 0  # actions of the wave under way
        self.virtual = 0  # simulations of the wave under way that came through
        self.clear()

    def clear(self) -> None:
        self.visits = 0
        self.scored = 0
        self.total = 0.0

    @property
    def mean(self) -> float:
        """The mean reward from 0 to 1. Where none is known the node counts as average: as good as its parent."""
        if self.scored:
            return self.total / self.scored
        return self.parent.mean if self.parent else 0.5

    @property
    def path(self) -> list["Node[T]"]:
        """The nodes from the root to this one."""
        return [*self.parent.path, self] if self.parent else [self]

    @property
    def is_open(self) -> bool:
        """Whether a simulation can end at or below this node without waiting for another one of its wave."""
        if self.untried:
            return True
        return any(child.is_open for child in self.children) if self.children else not self.pending

    def take(self, action: str) -> int:
        """Begin an untried action; its number."""
        self.untried.remove(action)
        self.pending += 1
        self.asked += 1
        return self.asked - 1

    def grow(self, number: int, content: T, untried: Iterable[str]) -> "Node[T]":
        """The child to which action `number` led."""
        child = Node(content, untried, self, (*self.place, number))
        self.children.append(child)
        return child


class Selected(NamedTuple, Generic[T]):
    """Where a simulation's descent ended: the node, and what to do there; no action means that it is an end."""

    node: Node[T]
    action: str | None = None
    number: int = 0


Expand = Callable[[Node[T], Sequence[Selected[T]]], Awaitable[list[Node[T]]]]
Rewards = Callable[[Sequence[Node[T]]], Sequence[float | None]]


def uct(node: Node[T], exploration: float) -> float:
    """The upper confidence bound of a child, to which simulations under way count as lost (virtual loss)."""
    parent, seen = node.parent, max(node.scored, 1)
    assert parent is not None
    tries = math.log(parent.visits + parent.virtual) / (node.visits + node.virtual)
    return node.mean * seen / (seen + node.virtual) + exploration * math.sqrt(tries)


def select(root: Node[T], exploration: float) -> Selected[T] | None:
    """Descend by UCT to a node that is not fully expanded, or to an end; None where all ways wait for the wave."""
    if not root.is_open:
        return None
    node = root
    while not node.untried and (ways := [child for child in node.children if child.is_open]):
        node = max(ways, key=lambda child: uct(child, exploration))
    for above in node.path:
        above.virtual += 1
    if not node.untried:
        return Selected(node)
    action = node.untried[0]
    return Selected(node, action, node.take(action))


def select_wave(root: Node[T], size: int, exploration: float) -> list[Selected[T]]:
    """Up to `size` simulations, selected one after another under virtual loss; never none."""
    wave: list[Selected[T]] = []
    while len(wave) < size and (selected := select(root, exploration)) is not None:
        wave.append(selected)
    return wave


async def expand_wave(wave: Sequence[Selected[T]], expand: Expand[T]) -> list[Node[T]]:
    """The node that each simulation comes to. Only what is to be done at one node is seen together."""
    at: dict[Node[T], list[Selected[T]]] = {}
    for selected in wave:
        if selected.action is not None:
            at.setdefault(selected.node, []).append(selected)
    grown = await gather(*(expand(node, actions) for node, actions in at.items()))
    leaves = {
        action: leaf
        for actions, found in zip(at.values(), grown, strict=True)
        for action, leaf in zip(actions, found, strict=True)
    }
    return [leaves.get(selected, selected.node) for selected in wave]


def back_up(leaf: Node[T], reward: float | None) -> None:
    """Count a simulation at its leaf and at every node above. A missing reward counts as a visit alone."""
    for node in leaf.path:
        node.visits += 1
        if reward is not None:
            node.scored += 1
            node.total += reward


def count_anew(root: Node[T], leaves: Sequence[Node[T]], rewards: Sequence[float | None]) -> None:
    """Back all simulations up, in order: what they are worth may have changed with the last ones."""
    nodes = [root]
    for node in nodes:
        nodes += node.children
        node.clear()
        node.pending = node.virtual = 0
    for leaf, reward in zip(leaves, rewards, strict=True):
        back_up(leaf, reward)


async def search(
    root: Node[T], simulations: int, parallel: int, exploration: float, expand: Expand[T], rewards: Rewards[T]
) -> list[Node[T]]:
    """Grow the tree; the leaf of each simulation.

    They run in waves of `parallel`: selected one after another, expanded at once, backed up in order. So the tree
    depends on the draws alone and not on which of them came first. `expand` gives the leaf for each action at a node,
    and may change nothing but that node and what it grows below; `rewards` gives what each leaf so far is worth.
    """
    leaves: list[Node[T]] = []
    while len(leaves) < simulations:
        wave = select_wave(root, min(parallel, simulations - len(leaves)), exploration)
        leaves += await expand_wave(wave, expand)
        count_anew(root, leaves, rewards(leaves))
    return leaves


def most_visited(root: Node[T]) -> Node[T]:
    """The leaf to which the most visited children lead; ties go to the higher mean, then to the earliest."""
    node = root
    while node.children:
        node = max(node.children, key=lambda child: (child.visits, child.mean))
    return node


def agreement(leaves: Sequence[Node[T]], form: Callable[[T], str | None]) -> list[float | None]:
    """The share of the answers found so far that are the same as each leaf's; None for a leaf without an answer."""
    counts = Counter(found for leaf in dict.fromkeys(leaves) if (found := form(leaf.content)) is not None)
    forms = [form(leaf.content) for leaf in leaves]
    return [None if found is None else counts[found] / counts.total() for found in forms]


def first_of_each(keys: Sequence[K | None], known: Container[K]) -> dict[K, int]:
    """Where each key that is not known stands first; None is no key."""
    first: dict[K, int] = {}
    for i, key in enumerate(keys):
        if key is not None and key not in known:
            first.setdefault(key, i)
    return first


def wording(text: str) -> str:
    """The form in which two steps are the same: case and white space do not count."""
    return " ".join(text.casefold().split())
