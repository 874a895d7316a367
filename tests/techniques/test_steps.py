"""What the step-by-step techniques take for a step, and for the last one."""

import time
from typing import Any

import pytest
from tests.scripting import run, scripted
from tests.techniques.stepwise import kind_of, steps_in

from shoal.runtime.types import Request
from shoal.techniques import TECHNIQUES
from shoal.techniques._steps import is_final
from shoal.techniques.rstar import _pieces, _question


@pytest.mark.parametrize(
    ("step", "final"),
    [
        ("Final answer: 4", True),
        ("So it is four.\n\n**Final Answer:** 4", True),
        ("### Final answer\n4", True),
        ("Final answer (in kg): 4", True),
        ("The final answer: 4", False),
        ("[Step 3]\nFinal answer: 4", True),
        ("[Step 3] Final answer: 4", True),
        ("Step 3: **Final answer:** 4", True),
        ("3. Final answer: 4", True),
        ("This is not the\nfinal answer yet.", False),
        ("It helps to find the final answer: go on.", False),
    ],
)
def test_a_step_is_final_where_a_line_states_the_final_answer(step: str, final: bool) -> None:
    assert is_final(step) is final


@pytest.mark.parametrize("piece", ["\n", "\n>", "\n* ", "Step 1 ", "\n1. "])
def test_steps_are_read_in_linear_time(piece: str) -> None:
    text = f"a{piece * 100_000}b"
    start = time.perf_counter()
    is_final(text)
    _pieces([text])
    _question(text)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("slug", "options"),
    [
        ("beam_search", {"beams": 1, "expand": 2}),
        ("particle_filtering", {"particles": 2}),
        ("monte_carlo_tree_search", {"simulations": 4, "branching": 2}),
        ("rstar", {"rollouts": 3}),
    ],
)
def test_what_a_model_thinks_before_a_step_is_no_part_of_it(slug: str, options: dict[str, Any]) -> None:
    def script(request: Request) -> str:
        if "<steps>" not in request.text or kind_of(request) == "rating":
            return "Score: 5"
        said = "Halve it." if kind_of(request) == "step" and not steps_in(request) else "Final answer: 4"
        return f"<think>\nFinal answer: 9? No.\n</think>\n{said}"

    model, backend = scripted(script)
    completion = run(TECHNIQUES[slug].function(model, Request.of("8 / 2?"), **options))
    assert completion.text.endswith("Final answer: 4")
    assert not any("9?" in request.text for request in backend.requests)
    assert "think" not in completion.text
