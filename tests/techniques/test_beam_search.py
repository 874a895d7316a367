"""The partial solutions with the highest reward go on, and the best one gives the answer."""

import asyncio
import random

import pytest
from tests.scripting import answer_of, run, scripted
from tests.techniques.stepwise import kind_of, steps_in, stepwise

from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import ServerError, TechniqueError, Unsupported, UsageError
from shoal.runtime.types import Completion, Json, Message, Request, TokenLogprob
from shoal.techniques.beam_search import beam_search


def numbered(steps: list[str], draw: tuple[int, ...]) -> str:
    """Each next step adds the number of its draw: "2", "2 0", "2 0 1"..."""
    return f"{steps[-1] if steps else ''} {draw[-1]}".strip()


def test_only_the_best_go_on_and_the_best_of_all_answers() -> None:
    """First steps 0..3 score 1, 9, 8, 2: paths from 1 and 2 go on. The winner comes from the second best beam."""
    scores = {"0": 1, "1": 9, "2": 8, "3": 2, "1 0": 3, "1 1": 4, "2 0": 5, "2 1": 10}
    script = stepwise(numbered, lambda steps: scores[steps[-1]])
    completion, backend = answer_of(beam_search, script, beams=2, expand=2, depth=2)
    assert completion.text == "written from 2 / 2 1"
    asked = [(steps_in(r), r.sample) for r in backend.requests if kind_of(r) == "step"]
    assert asked[:4] == [([], (0, i)) for i in range(4)]
    assert asked[4:] == [(["1"], (1, 0)), (["1"], (1, 1)), (["2"], (1, 0)), (["2"], (1, 1))]
    assert backend.batches == [4, 4, 4, 4, 1]


def test_usage_is_exact() -> None:
    completion, backend = answer_of(beam_search, stepwise(numbered, lambda steps: 5), "two words", depth=3)
    assert completion.usage.calls == len(backend.requests) == 3 * 6 * 2 + 1
    words = sum(len(m.text.split()) for r in backend.requests for m in r.messages)
    assert completion.usage.prompt_tokens == words


def test_it_ends_when_all_that_are_kept_are_finished() -> None:
    def step(steps: list[str], draw: tuple[int, ...]) -> str:
        return f"Final answer: {draw[-1]}" if len(steps) == 1 else f"step {draw[-1]}"

    def score(steps: list[str]) -> int:
        return (9 if steps[0] == "step 3" else 5) - (steps[-1] == "Final answer: 0")

    completion, backend = answer_of(beam_search, stepwise(step, score), depth=9)
    assert completion.text == "step 3\n\nFinal answer: 1"
    assert backend.batches == [6, 6, 6, 6]  # nothing was written: the steps are the answer


def test_a_finished_path_stays_a_candidate_and_is_not_asked_again() -> None:
    def step(steps: list[str], draw: tuple[int, ...]) -> str:
        return "Final answer: 7" if not steps and draw[-1] == 0 else numbered(steps, draw)

    def score(steps: list[str]) -> int:
        return 8 if steps == ["Final answer: 7"] else 8 - len(steps)

    completion, backend = answer_of(beam_search, stepwise(step, score), beams=2, expand=2, depth=3)
    assert completion.text == "Final answer: 7"
    assert backend.batches == [4, 4, 2, 2, 2, 2]


def test_equal_steps_are_one_path_and_judged_once() -> None:
    script = stepwise(lambda steps, draw: ("Add  them.", "add them.", "Multiply.")[draw[-1] % 3], lambda steps: 5)
    _, backend = answer_of(beam_search, script, beams=2, expand=3, depth=1)
    assert backend.batches == [6, 2, 1]


def test_a_rating_that_cannot_be_read_is_below_every_other_and_above_nothing() -> None:
    scores = {"0": "No idea.", "1": 0, "2": Completion("Score: 10", "length"), "3": "Score:"}
    script = stepwise(numbered, lambda steps: scores[steps[-1]])
    assert answer_of(beam_search, script, beams=1, expand=4, depth=1)[0].text == "written from 1"
    unread = stepwise(numbered, lambda steps: "No idea.")
    assert answer_of(beam_search, unread, beams=1, expand=4, depth=1)[0].text == "written from 0"


def test_steps_that_are_blank_or_cut_off_go_no_further() -> None:
    says = [" ", Completion("Final answer: 1", "length"), "good", "good too"]
    script = stepwise(lambda steps, draw: says[draw[-1]] if not steps else " ", lambda steps: 5)
    completion, backend = answer_of(beam_search, script, beams=1, expand=4, depth=3)
    assert completion.text == "written from good"
    assert backend.batches == [4, 2, 4, 1]
    with pytest.raises(TechniqueError, match="blank or cut off"):
        answer_of(beam_search, stepwise(lambda steps, draw: "", lambda steps: 5))


def test_log_probabilities_as_the_reward() -> None:
    """No judge is asked; the mean counts, not the sum, so that a longer step is not the worse for it."""
    means = {0: [-0.9], 1: [-0.2, -0.4], 2: [-0.35], 3: []}

    def step(steps: list[str], draw: tuple[int, ...]) -> Completion:
        tokens = tuple(TokenLogprob("x", value) for value in means[draw[-1]])
        return Completion(numbered(steps, draw), logprobs=tokens)

    script = stepwise(step, lambda steps: pytest.fail("nobody is to be judged"))
    completion, backend = answer_of(beam_search, script, beams=1, expand=4, depth=2, reward="logprobs")
    assert completion.text == "written from 1 / 1 1"
    assert backend.batches == [4, 4, 1]
    assert [r.params.logprobs for r in backend.requests] == [True] * 8 + [False]


def test_a_model_without_log_probabilities_says_so() -> None:
    backend = ScriptedBackend(lambda r: "x")
    backend.capabilities = type(backend.capabilities)(chat=True)
    with pytest.raises(Unsupported, match="log-probabilities"):
        run(beam_search(BaseModel(backend), Request.of("Q?"), reward="logprobs"))
    assert not backend.requests


def test_another_model_judges_and_sees_the_conversation() -> None:
    model, backend = scripted(stepwise(numbered, lambda steps: pytest.fail("not the judge")))
    judge, verdicts = scripted(stepwise(numbered, lambda steps: 9 if steps[-1].endswith("2") else 1))
    conversation = (
        Message("system", "Be brief."),
        Message("user", "How many ships?"),
        Message("assistant", "Where?"),
        Message(
            "user", Json.of([{"type": "text", "text": "There."}, {"type": "image_url", "image_url": {"url": "u"}}])
        ),
    )
    request = Request(conversation, sample=(4,)).with_params(temperature=0.7, stop=("END",), max_tokens=9)
    completion = run(beam_search(model, request, judge=judge, depth=2))
    assert completion.text == "written from 2 / 2 2"
    for asked in verdicts.requests:
        assert "How many ships?" in asked.text
        assert "image_url" in str(asked.messages[0].content)
        assert (asked.params.temperature, asked.params.stop, asked.params.max_tokens) == (0.0, (), None)
    for asked in backend.requests[:-1]:
        assert asked.messages[:3] == conversation[:3]
        assert (asked.params.temperature, asked.params.stop) == (0.7, ())
        assert asked.sample[0] == 4
    assert backend.requests[-1].params == request.params


def test_a_form_is_asked_of_the_answer_alone() -> None:
    """A final step is not an object of the schema, nor a tool call: one more call writes it."""
    script = stepwise(lambda steps, draw: "Final answer: 7", lambda steps: 5, lambda steps: '{"a": 7}')
    request = Request.of("Q?", json_schema={"type": "object"})
    completion, backend = answer_of(beam_search, script, request)
    assert completion.text == '{"a": 7}'
    assert [r.params.json_schema is not None for r in backend.requests] == [False] * 7 + [True]
    tools = (Json.of({"type": "function", "function": {"name": "look"}}),)
    _, backend = answer_of(beam_search, script, Request((Message("user", "Q?"),), tools=tools))
    assert [bool(r.tools) for r in backend.requests] == [False] * 7 + [True]


def test_a_bare_prompt_is_worked_on_too() -> None:
    model, backend = scripted(lambda r: "Score: 3" if r.messages else "Final answer: 9")
    assert run(beam_search(model, Request(prompt="Q: 4 + 5?"))).text == "Final answer: 9"
    assert all((r.prompt or r.text).startswith(("Q: 4 + 5?", "Someone")) for r in backend.requests)


def test_an_answer_that_was_cut_off_says_so() -> None:
    script = stepwise(numbered, lambda steps: 5, lambda steps: Completion("The ans", "length"))
    assert answer_of(beam_search, script)[0].finish_reason == "length"


def test_a_failed_branch_fails_the_whole_with_its_own_error() -> None:
    def score(steps: list[str]) -> int:
        if steps == ["3"]:
            raise ServerError("down", retryable=False)
        return 5

    with pytest.raises(ServerError, match="down"):
        answer_of(beam_search, stepwise(numbered, score))


def test_the_answer_does_not_depend_on_what_came_first() -> None:
    script = stepwise(numbered, lambda steps: hash(tuple(map(int, steps[-1].split()))) % 7)
    seen = set()
    for seed in range(10):
        chance = random.Random(seed)

        async def late(request: Request, chance: random.Random = chance) -> str | Completion:
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            return script(request)

        seen.add(run(beam_search(scripted(late)[0], Request.of("Q?"))).text)
    assert len(seen) == 1


@pytest.mark.parametrize("options", [{"beams": 0}, {"expand": 0}, {"depth": -1}, {"reward": "luck"}])
def test_bad_options_are_refused_before_any_call(options: dict[str, object]) -> None:
    model, backend = scripted(lambda r: "x")
    (name, value) = next(iter(options.items()))
    with pytest.raises(UsageError, match=f"{name}={value!r}"):
        run(beam_search(model, Request.of("Q?"), **options))  # type: ignore[arg-type]
    assert not backend.requests
