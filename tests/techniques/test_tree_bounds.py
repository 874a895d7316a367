"""What the catalogue says of the tree searches' calls holds whatever the replies are."""

from random import Random
from typing import Any

import pytest
from tests.scripting import run, scripted

from shoal.errors import TechniqueError
from shoal.runtime.types import Completion, Request
from shoal.techniques import TECHNIQUES


def whims(seed: int) -> Any:
    """A script of steps and answers that are blank, cut off, repeated, final and of all kinds by chance."""

    def script(request: Request) -> Completion:
        chance = Random(repr((seed, request)))
        text = chance.choice(["", "step a", "Step  A", "step b", f"step {chance.random()}"])
        text = chance.choice([text, f"Final answer: {chance.randint(0, 2)}", f"Score: {chance.randint(0, 12)}"])
        return Completion(text, chance.choice(["stop", "stop", "stop", "length"]))

    return script


@pytest.mark.parametrize("slug", ["monte_carlo_tree_search", "rstar"])
@pytest.mark.parametrize("seed", range(60))
def test_the_bounds_hold_for_any_replies(slug: str, seed: int) -> None:
    entry, chance = TECHNIQUES[slug], Random(seed)
    options: dict[str, Any] = dict(entry.options)
    ranges = {"simulations": 20, "rollouts": 20, "branching": 4, "depth": 5, "parallel": 6}
    options.update({name: chance.randint(1, most) for name, most in ranges.items() if name in options})
    if slug == "monte_carlo_tree_search":
        options.update(value=chance.choice(["judge", "agreement"]), rollout=chance.random() < 0.5)
    model, backend = scripted(whims(seed), waves=True)
    cost = entry.cost(**options)
    try:
        completion = run(entry.function(model, Request.of("Q?"), **options))
    except TechniqueError:
        pass
    else:
        assert completion.usage.calls == len(backend.requests)
    assert cost.fewest <= len(backend.requests) <= cost.calls
    assert len(backend.batches) <= cost.critical_path
