"""What clients of optillm send, in our words: its names of techniques, and of their options."""

import re

from shoal.server.refusals import invalid

NO_TECHNIQUE = (None, "", "none", "auto")  # what says that the model's name says it all

# Techniques of theirs that go by another name than ours and its aliases.
_TECHNIQUES = {"genselect": "best_of_n(judging=select)"}

# Those that have no counterpart here.
_MISSING = frozenset(
    (
        *("mars", "cepo", "longcepo", "deepthink", "deep_research", "spl", "autothink", "deepconf", "thinkdeeper"),
        *("coc", "executecode", "readurls", "web_search", "memory", "compact", "privacy", "mcp", "router", "proxy"),
        *("json", "cot_decoding", "entropy_decoding"),
    )
)

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
    """`moa`, `a&b` or `a|b` with our names for theirs. Refusal for one that there is not."""
    for name in re.split("[&|]", techniques):
        if name in _MISSING:
            raise invalid(
                f"optillm's technique {name!r} is not there; `shoal techniques` lists those that are", "model"
            )
    return re.sub(r"\w+", lambda name: _TECHNIQUES.get(name[0], name[0]), techniques)
