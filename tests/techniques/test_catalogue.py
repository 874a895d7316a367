"""The catalogue is the folder, and every technique keeps the same contract."""

import inspect
from pathlib import Path

import pytest
from tests.scripting import run, scripted

import shoal.techniques
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request
from shoal.techniques import TECHNIQUES, find, names

MODULES = {path.stem for path in Path(shoal.techniques.__file__).parent.glob("[a-z]*.py")} - {
    "bounds",
    "combining",
    "configuring",
    "spec",
    "opening",
    "running",
}


def test_catalogue_and_folder_agree() -> None:
    assert {entry.function.__name__ for entry in TECHNIQUES.values()} == MODULES  # type: ignore[attr-defined]
    assert len(set(names())) == len(names())


@pytest.mark.parametrize("slug", TECHNIQUES)
def test_contract(slug: str) -> None:
    entry = TECHNIQUES[slug]
    model, request, *options = inspect.signature(entry.function).parameters.values()
    assert (model.annotation, request.annotation) == (Model, Request)
    assert all(option.kind is option.KEYWORD_ONLY and option.default is not option.empty for option in options)
    assert entry.summary.endswith(".")
    assert find(slug) is entry
    assert all(find(alias) is entry for alias in entry.aliases)


@pytest.mark.parametrize("slug", TECHNIQUES)
def test_calls_and_critical_path_are_as_the_catalogue_says(slug: str) -> None:
    entry = TECHNIQUES[slug]
    model, backend = scripted(lambda r: f"Score: 5. The answer is {r.sample}", waves=True)
    completion = run(entry.function(model, Request.of("Q?")))
    cost = entry.cost()
    assert completion.usage.calls == len(backend.requests)
    if entry.fewest is None:
        assert (len(backend.requests), len(backend.batches)) == (cost.calls, cost.critical_path)
    else:
        assert cost.fewest <= len(backend.requests) <= cost.calls
        assert len(backend.batches) <= cost.critical_path


@pytest.mark.parametrize("slug", TECHNIQUES)
def test_the_same_draws_give_the_same_answer(slug: str) -> None:
    def once() -> Completion:
        model, _ = scripted(lambda r: f"Score: {r.sample}. The answer is {sum(r.sample) % 3}")
        return run(TECHNIQUES[slug].function(model, Request.of("Q?")))

    assert once() == once()
