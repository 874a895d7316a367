"""Tree search on its own: descents by UCT, virtual loss, back-propagation, and what does not depend on timing."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from tests.scripting import run

from shoal.techniques import _tree
from shoal.techniques._tree import Node, Selected

Rating = dict[str, float | None]


class Letters:
    """A tree of words: each node has the children `word + "a"` and so on, and ends at `depth` letters."""

    def __init__(self, rating: Rating, *, depth: int = 3, branching: int = 2, seed: int = 0) -> None:
        self.rating = rating
        self.depth = depth
        self.branching = branching
        self.seed = seed
        self.waves: list[int] = []

    async def expand(self, node: Node[str], actions: Sequence[Selected[str]]) -> list[Node[str]]:
        for _ in range(hash((self.seed, node.content)) % 7):
            await asyncio.sleep(0)
        return [
            node.grow(
                action.number,
                word := node.content + "abcdefgh"[action.number],
                ["go"] * self.branching * (len(word) < self.depth),
            )
            for action in actions
        ]

    def rewards(self, leaves: Sequence[Node[str]]) -> list[float | None]:
        self.waves.append(len(leaves))
        return [self.rating.get(leaf.content, 0.0) for leaf in leaves]

    def tree(self, simulations: int, parallel: int = 1, exploration: float = 1.4) -> Node[str]:
        root = Node("", ["go"] * self.branching)
        run(_tree.search(root, simulations, parallel, exploration, self.expand, self.rewards))
        return root


def nodes(root: Node[str]) -> Iterator[Node[str]]:
    yield root
    for child in root.children:
        yield from nodes(child)


@pytest.mark.parametrize("parallel", [1, 3, 8])
def test_visits_add_up(parallel: int) -> None:
    root = Letters({"ab": 1.0, "b": 0.5}, depth=4).tree(40, parallel)
    assert root.visits == 40
    for node in nodes(root):
        below = sum(child.visits for child in node.children)
        if node is root:
            assert node.visits == below  # no simulation ends at the root
        elif node.children or node.untried:
            assert node.visits == below + 1  # the simulation that found it, and those that went on
        else:
            assert node.visits >= 1
        assert (node.virtual, node.pending) == (0, 0)


def test_the_reward_of_a_leaf_reaches_the_leaf_and_all_above_it() -> None:
    root = Node("", ["go"])
    child = root.grow(0, "a", ["go"])
    leaf = child.grow(0, "aa", [])
    _tree.back_up(leaf, 0.5)
    _tree.back_up(child, 1.0)
    assert [(node.visits, node.total) for node in (root, child, leaf)] == [(2, 1.5), (2, 1.5), (1, 0.5)]


def test_a_missing_reward_is_a_visit_and_neither_nought_nor_a_half() -> None:
    root = Node("", [])
    known, unknown = root.grow(0, "a", []), root.grow(1, "b", [])
    _tree.back_up(known, 0.9)
    _tree.back_up(unknown, None)
    assert (unknown.visits, unknown.scored, unknown.mean) == (1, 0, 0.9)
    assert root.mean == 0.9
    assert _tree.uct(unknown, 1.4) == _tree.uct(known, 1.4)
    _tree.back_up(unknown, None)  # each visit makes it less worth exploring, so it cannot be chosen for ever
    assert _tree.uct(unknown, 1.4) < _tree.uct(known, 1.4)


def test_the_tree_gets_deeper_with_more_simulations() -> None:
    depths = [max(len(node.place) for node in nodes(Letters({}, depth=9).tree(n))) for n in (2, 4, 16, 64)]
    assert depths == sorted(depths)
    assert depths[0] == 1
    assert depths[-1] >= 5


def test_exploration_visits_all_and_its_absence_follows_the_best() -> None:
    rating: Rating = dict.fromkeys(("a", "aa", "ab", "aaa", "aab", "aba", "abb"), 1.0)
    greedy = Letters(rating).tree(40, exploration=0.0)
    curious = Letters(rating).tree(40, exploration=50.0)
    assert [child.visits for child in greedy.children] == [39, 1]
    assert max(child.visits for child in curious.children) <= 21


def test_a_wave_spreads_under_virtual_loss_and_no_node_is_expanded_twice_by_one_action() -> None:
    root = Letters({"a": 1.0, "b": 0.9}, branching=2).tree(2)
    wave = _tree.select_wave(root, 4, 1.4)
    assert [(selected.node.content, selected.number) for selected in wave] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_a_wave_is_cut_short_where_every_way_waits_for_it() -> None:
    letters = Letters({}, branching=3)
    letters.tree(8, parallel=4)
    assert letters.waves == [3, 7, 8]  # three children of the root at first: a fourth step has nothing to follow


def test_a_blocked_branch_does_not_stop_a_wave_that_has_other_ways() -> None:
    root: Node[str] = Node("", [])
    blocked, free = root.grow(0, "a", ["go"]), root.grow(1, "b", ["go", "go", "go"])
    _tree.count_anew(root, [blocked, free], [1.0, 0.0])
    wave = _tree.select_wave(root, 9, 0.0)
    assert [selected.node.content for selected in wave] == ["a", "b", "b", "b"]


def test_ends_are_visited_again_without_being_expanded() -> None:
    root = Letters({"a": 1.0}, depth=1).tree(30, parallel=4)
    assert root.visits == 30
    assert [child.content for child in nodes(root)] == ["", "a", "b"]
    assert _tree.most_visited(root).content == "a"


def test_the_tree_does_not_depend_on_which_expansion_ends_first() -> None:
    def shape(seed: int) -> list[tuple[str, int, float]]:
        root = Letters({"ab": 1.0, "ba": 0.8, "bab": 0.9}, depth=5, seed=seed).tree(50, parallel=6)
        return [(node.content, node.visits, node.total) for node in nodes(root)]

    assert all(shape(seed) == shape(0) for seed in range(1, 6))


def test_the_most_visited_child_wins_and_ties_go_to_the_mean_and_then_the_earliest() -> None:
    root: Node[str] = Node("", [])
    children = [root.grow(i, word, []) for i, word in enumerate("abcd")]
    _tree.count_anew(root, children, [0.2, 0.7, 0.7, None])
    assert _tree.most_visited(root).content == "b"
    _tree.count_anew(root, [*children, children[0]], [0.2, 0.7, 0.7, None, 0.0])
    assert _tree.most_visited(root).content == "a"


def test_agreement_counts_each_leaf_once_and_those_without_an_answer_not_at_all() -> None:
    leaves: list[Node[str]] = [Node(word) for word in ("7", "8", "7", "?")]
    shares = _tree.agreement([*leaves, leaves[1], leaves[1]], lambda word: None if word == "?" else word)
    assert shares == [2 / 3, 1 / 3, 2 / 3, None, 1 / 3, 1 / 3]
