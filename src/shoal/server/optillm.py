"""What clients of optillm send, in our words: its names of techniques, and of their options."""

import re

# Techniques of theirs that go by another name than ours and its aliases.
_TECHNIQUES = {"genselect": "best_of_n(judging=select)"}

# Options as its command line and request bodies name them.
OPTIONS = {
    "best_of_n": "best_of_n_n",
    "mcts_simulations": "mcts_simulations",
    "mcts_depth": "mcts_depth",
    "mcts_exploration": "mcts_exploration",
    "rstar_max_depth": "rstar_depth",
    "rstar_num_rollouts": "rstar_rollouts",
    "rstar_c": "rstar_exploration",
}


def spec_of(techniques: str) -> str:
    """`moa`, `a&b` or `a|b` with our names for theirs."""
    return re.sub(r"\w+", lambda name: _TECHNIQUES.get(name[0], name[0]), techniques)
