"""Options that a technique cannot work with are refused before anything is asked."""

import pytest
from tests.scripting import run, scripted

from shoal.errors import UsageError
from shoal.planning.checking import refuse_impossible
from shoal.runtime.model import apply
from shoal.techniques import TECHNIQUES
from shoal.techniques.best_of_n import best_of_n
from shoal.techniques.self_consistency import self_consistency


@pytest.mark.parametrize("slug", TECHNIQUES)
def test_what_works_passes_and_asks_nothing(slug: str) -> None:
    model, backend = scripted(lambda _: "The answer is 1.")
    applied = apply(TECHNIQUES[slug].function, model)
    run(refuse_impossible(applied))
    assert backend.requests == []


def test_what_cannot_work_is_refused_also_within_another_technique() -> None:
    model, backend = scripted(lambda _: "The answer is 1.")
    inner = apply(self_consistency, model, n=0)
    applied = apply(best_of_n, inner, n=2)
    with pytest.raises(UsageError, match=r"best_of_n\(n=2\): n=0: must be at least 1"):
        run(refuse_impossible(applied))
    assert backend.requests == []
