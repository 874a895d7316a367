"""Clients written for optillm, which its documentation tells how to write, with only the base_url pointing here."""

import os
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from tests.scripting import run
from tests.server.serving import scripted_model, serving

from shoal.runtime.types import Request

ASKED = [{"role": "user", "content": "How many r's are there in strawberry?"}]


def said(request: Request) -> str:
    return "There are 3. The answer is 3."


class Asking:
    """What one client got, and how many calls of gpt-4o-mini that took."""

    def __init__(self, model: str, messages: Any = ASKED, **options: Any) -> None:
        self.mini = scripted_model(said)
        self.mars = scripted_model(lambda request: "I am a model.")
        self.reply: Any = run(self._ask(model=model, messages=messages, **options))

    async def _ask(self, **body: Any) -> Any:
        models = {"openai/gpt-4o-mini": self.mini, "gemini/gemini-1.5-flash-002": self.mini, "mars-2b": self.mars}
        async with (
            serving(models) as server,
            AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY", "sk-no-key"), base_url=f"{server.url}/v1") as client,
        ):
            return await client.chat.completions.create(**body)

    @property
    def technique(self) -> str | None:
        technique: str | None = self.reply.model_dump()["shoal"]["technique"]
        return technique

    @property
    def texts(self) -> list[str]:
        return [choice.message.content for choice in self.reply.choices]

    @property
    def calls(self) -> int:
        return len(self.mini.backend.requests)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("prefix", "technique"),
    [
        ("moa", "mixture_of_agents"),
        ("bon", "best_of_n"),
        ("mcts", "monte_carlo_tree_search"),
        ("pvg", "prover_verifier_game"),
        ("rstar", "rstar"),
        ("z3", "z3_solver"),
        ("rto", "round_trip"),
        ("leap", "learning_principles"),
        ("plansearch", "plan_search"),
        ("re2", "re_reading"),
        ("cot_reflection", "cot_reflection"),
        ("self_consistency", "self_consistency"),
        ("majority_voting", "self_consistency"),
        ("genselect", "best_of_n(judging='select')"),
    ],
)
def test_every_slug_before_a_models_name(prefix: str, technique: str) -> None:
    asking = Asking(f"{prefix}-gpt-4o-mini", temperature=0.2)
    assert asking.technique == technique
    assert asking.calls >= 1
    reply = asking.reply
    assert reply.object == "chat.completion"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert "3" in asking.texts[0]


def test_a_models_own_name_may_have_a_slash() -> None:
    assert Asking("moa-gemini/gemini-1.5-flash-002").technique == "mixture_of_agents"


def test_a_slug_in_the_body() -> None:
    asking = Asking("gpt-4o-mini", temperature=0.2, extra_body={"optillm_approach": "re2"})
    assert (asking.technique, asking.calls) == ("re_reading", 1)


@pytest.mark.parametrize("approach", ["none", "auto"])
def test_no_slug_in_the_body(approach: str) -> None:
    assert Asking("gpt-4o-mini", extra_body={"optillm_approach": approach}).technique is None
    assert Asking("re2-gpt-4o-mini", extra_body={"optillm_approach": approach}).technique == "re_reading"


def test_techniques_in_parallel_give_a_choice_each() -> None:
    asking = Asking("gpt-4o-mini", temperature=0.2, extra_body={"optillm_approach": "bon|moa|mcts"})
    assert asking.technique == "best_of_n|mixture_of_agents|monte_carlo_tree_search"
    assert len(asking.texts) == 3
    assert [choice.index for choice in asking.reply.choices] == [0, 1, 2]
    assert len(Asking("re2|cot_reflection-gpt-4o-mini").texts) == 2


def test_techniques_one_after_the_other_give_one() -> None:
    for asking in (
        Asking("re2&cot_reflection-gpt-4o-mini"),
        Asking("gpt-4o-mini", extra_body={"optillm_approach": "re2&cot_reflection"}),
    ):
        assert (asking.technique, asking.calls, len(asking.texts)) == ("re_reading&cot_reflection", 2, 1)


@pytest.mark.parametrize(
    ("approach", "options", "technique"),
    [
        (
            "mcts",
            {"mcts_simulations": 3, "mcts_depth": 1, "mcts_exploration": 0.3},
            "monte_carlo_tree_search(simulations=3, depth=1, exploration=0.3)",
        ),
        ("bon", {"best_of_n": 5}, "best_of_n(n=5)"),
        (
            "rstar",
            {"rstar_max_depth": 2, "rstar_num_rollouts": 2, "rstar_c": 1.5},
            "rstar(depth=2, rollouts=2, exploration=1.5)",
        ),
    ],
)
def test_options_by_optillms_names(approach: str, options: dict[str, Any], technique: str) -> None:
    assert Asking("gpt-4o-mini", extra_body={"optillm_approach": approach, **options}).technique == technique
    assert Asking(f"{approach}-gpt-4o-mini", extra_body=options).technique == technique


def test_several_final_answers() -> None:
    asking = Asking("re2-gpt-4o-mini", n=3)
    assert (len(asking.texts), asking.calls) == (3, 3)


def test_a_tag_in_a_message_is_text_like_any_other() -> None:
    asked = [{"role": "user", "content": "<optillm_approach>mcts</optillm_approach> How many r's?"}]
    asking = Asking("gpt-4o-mini", asked)
    assert (asking.technique, asking.calls) == (None, 1)
    assert asking.mini.backend.requests[0].text == asked[0]["content"]  # type: ignore[attr-defined]


def test_what_curl_sends_with_an_extra_body_left_nested() -> None:
    body = {
        "model": "gpt-4o-mini",
        "messages": ASKED,
        "temperature": 0.2,
        "extra_body": {"optillm_approach": "mcts", "mcts_simulations": 2},
    }

    async def main() -> Any:
        async with serving({"openai/gpt-4o-mini": scripted_model(said)}) as server:
            headers = {"authorization": "Bearer sk-no-key"}
            return (await server.post("/v1/chat/completions", body, headers=headers)).json

    assert run(main())["shoal"]["technique"] == "monte_carlo_tree_search(simulations=2)"


def test_streams_of_techniques_are_streams() -> None:
    async def main() -> list[str]:
        async with (
            serving({"gpt-4o-mini": scripted_model(said)}) as server,
            AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1") as client,
        ):
            stream = await client.chat.completions.create(model="moa-gpt-4o-mini", messages=ASKED, stream=True)  # type: ignore[call-overload]
            return [chunk.choices[0].delta.content or "" async for chunk in stream]

    pieces = [piece for piece in run(main()) if piece]
    assert len(pieces) > 3
    assert "".join(pieces) == said(Request())


@pytest.mark.parametrize("slug", ["mars", "cepo", "readurls&memory", "router", "re2&mars", "spl|re2", "executecode"])
def test_techniques_that_are_not_here_are_refused_by_name(slug: str) -> None:
    for ask in (
        lambda: Asking(f"{slug}-gpt-4o-mini"),
        lambda: Asking("gpt-4o-mini", extra_body={"optillm_approach": slug}),
    ):
        with pytest.raises(BadRequestError, match="optillm's technique") as caught:
            ask()
        assert caught.value.param == "model"


def test_a_model_is_not_taken_for_a_technique() -> None:
    asking = Asking("mars-2b")
    assert (asking.calls, asking.texts) == (0, ["I am a model."])
    assert Asking("re2-mars-2b").texts == ["I am a model."]
    with pytest.raises(NotFoundError):
        Asking("mars-3b")
