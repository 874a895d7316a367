"""What went wrong in earlier programs of this kind, and goes right here."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tests.scripting import answer_of, in_turn, run, scripted

from shoal.backends.scripted import Script
from shoal.errors import AuthenticationFailed, TechniqueError, UsageError
from shoal.runtime.model import Technique
from shoal.runtime.types import Completion, Json, Message, Request, Usage
from shoal.techniques.best_of_n import best_of_n
from shoal.techniques.combining import pipeline, side_by_side
from shoal.techniques.cot_reflection import cot_reflection
from shoal.techniques.critique import critique
from shoal.techniques.learning_principles import learning_principles
from shoal.techniques.mixture_of_agents import mixture_of_agents
from shoal.techniques.monte_carlo_tree_search import monte_carlo_tree_search
from shoal.techniques.plan_search import plan_search
from shoal.techniques.program_of_thoughts import program_of_thoughts
from shoal.techniques.prover_verifier_game import prover_verifier_game
from shoal.techniques.re_reading import re_reading
from shoal.techniques.round_trip import round_trip
from shoal.techniques.rstar import rstar
from shoal.techniques.self_consistency import self_consistency
from shoal.techniques.spec import parse_spec
from shoal.techniques.two_turn import two_turn
from shoal.techniques.z3_solver import z3_solver

# -- cot_reflection


def test_cot_reflection_a_reply_without_any_text_is_no_crash() -> None:
    completion, _ = answer_of(cot_reflection, lambda r: Completion("", "length"))
    assert (completion.text, completion.finish_reason) == ("", "length")


def test_cot_reflection_thoughts_do_not_stand_in_the_answer() -> None:
    completion, _ = answer_of(cot_reflection, lambda r: "<thinking>5? No.</thinking> <output>4")
    assert completion.text == "4"


# -- learning_principles


def _leap_script(attempt: Completion) -> Script:
    return lambda r: attempt if "step by step. End with" in r.text else Completion("x")


@pytest.mark.parametrize("wording", ["The answer is **4**.", r"\boxed{4}", "2 + 2 = 4, so the answer is 4.0", "#### 4"])
def test_leap_another_wording_of_the_right_answer_is_no_mistake(wording: str) -> None:
    script = _leap_script(Completion(wording))
    _, backend = answer_of(learning_principles, script, "Q?", examples=[("2 + 2?", "Four, so 4.")], kind="number")
    assert backend.batches == [3, 1]


def test_leap_a_truncated_reply_is_no_error() -> None:
    script = _leap_script(Completion("Let us see: 2", "length"))
    completion, _ = answer_of(learning_principles, script, "Q?", examples=[("2 + 2?", "4")])
    assert (completion.text, completion.finish_reason) == ("x", "stop")


def test_leap_mistakes_are_learned_from_at_once() -> None:
    script = _leap_script(Completion("The answer is 5."))
    examples = [(f"{i} + {4 - i}?", "4") for i in range(5)]
    _, backend = answer_of(learning_principles, script, "Q?", examples=examples)
    assert backend.batches == [15, 15, 1, 1]


# -- re_reading


def test_re2_one_question_is_one_call_whatever_else_is_asked_for() -> None:
    request = Request.of("Q?", temperature=0.0, max_tokens=7, seed=3, stop="\n").draw(5)
    _, backend = answer_of(re_reading, lambda r: "x", request)
    assert [(r.params, r.sample) for r in backend.requests] == [(request.params, (5,))]


# -- combinations


def test_combined_a_pipeline_does_not_lose_the_question() -> None:
    _, backend = answer_of(pipeline, lambda r: "said", "Why is it so?", stages=[two_turn, re_reading])
    assert all("Why is it so?" in r.messages[0].text for r in backend.requests)
    assert backend.requests[-1].text.count("Why is it so?") == 2


def test_combined_a_list_of_answers_is_not_sent_as_text() -> None:
    stages = [partial(side_by_side, stages=[re_reading, two_turn]), re_reading]
    _, backend = answer_of(pipeline, lambda r: "said", stages=stages)
    assert [m.content for m in backend.requests[-1].messages][1] == "said"


def test_combined_signs_can_be_mixed_and_every_name_is_checked() -> None:
    def base(name: str) -> Any:
        return scripted(lambda r: "x", name=name)[0]

    assert repr(parse_spec("re2|bon&moa@local", base)) == "re_reading|best_of_n&mixture_of_agents@local"
    with pytest.raises(UsageError, match="unknown technique 'plan'"):
        parse_spec("re2&plan@local", base)


# -- all of these

WITH_CALLS_BEFORE: list[tuple[Technique, dict[str, Any]]] = [
    (cot_reflection, {}),
    (re_reading, {}),
    (learning_principles, {"examples": (("1 + 1?", "2"),)}),
    (two_turn, {}),
    (critique, {}),
    (pipeline, {"stages": [re_reading, critique]}),
    (side_by_side, {"stages": [critique, two_turn]}),
]
each = pytest.mark.parametrize(("technique", "options"), WITH_CALLS_BEFORE)

TOOL_CALL = Json.of({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}})
CONVERSATION = Request(
    messages=(
        Message("system", "First rule."),
        Message("system", "Second rule."),
        Message(
            "user", Json.of([{"type": "image_url", "image_url": {"url": "data:x"}}, {"type": "text", "text": "1?"}])
        ),
        Message("assistant", tool_calls=(TOOL_CALL,)),
        Message("tool", "21", tool_call_id="1"),
        Message("assistant", "It is 21."),
        Message("user", "And now?"),
    ),
)


@each
def test_text_that_looks_like_a_role_stays_in_the_answer(technique: Technique, options: dict[str, Any]) -> None:
    text = "Fill in the User: field, press Save. Assistant: is fine.\n\nThe answer is 12."
    assert answer_of(technique, lambda r: text, **options)[0].text == text


@each
def test_the_conversation_is_not_flattened(technique: Technique, options: dict[str, Any]) -> None:
    """The call that answers has every turn in its role: system messages, images, calls of tools and their results."""
    _, backend = answer_of(technique, lambda r: "The answer is 12.", CONVERSATION, **options)
    shown = [[(m.role, m.content, m.tool_calls) for m in request.messages] for request in backend.requests]
    wanted = [(m.role, m.content, m.tool_calls) for m in CONVERSATION.messages[1:-1]]
    assert any(turns[1:6] == wanted for turns in shown)
    answering = next(turns for turns in shown if turns[1:6] == wanted)
    assert str(answering[0][1]).startswith("First rule.")
    assert "And now?" in str(answering[6][1])


@each
def test_an_answer_that_was_cut_off_says_so(technique: Technique, options: dict[str, Any]) -> None:
    completion, _ = answer_of(technique, lambda r: Completion("It is so that", "length"), **options)
    assert completion.finish_reason == "length"


def _called(request: Request) -> Completion:
    return Completion("", "tool_calls", tool_calls=(TOOL_CALL,)) if request.tools else Completion("I need f.")


@each
def test_calls_of_tools_are_answers(technique: Technique, options: dict[str, Any]) -> None:
    tool = Json.of({"type": "function", "function": {"name": "f"}})
    completion, _ = answer_of(technique, _called, Request(Request.of("Q?").messages, tools=(tool,)), **options)
    assert (completion.finish_reason, completion.tool_calls) == ("tool_calls", (TOOL_CALL,))


@each
def test_usage_is_that_of_every_call(technique: Technique, options: dict[str, Any]) -> None:
    completion, backend = answer_of(technique, lambda r: f"said {r.sample}", **options)
    assert completion.usage.calls == len(backend.requests)
    asked = sum(len(m.text.split()) for r in backend.requests for m in r.messages)
    assert completion.usage.prompt_tokens == asked


@each
def test_the_users_parameters_reach_the_call_that_answers(technique: Technique, options: dict[str, Any]) -> None:
    request = Request.of("Q?", temperature=0.2, seed=4, stop="\n", json_schema={"type": "object"}, logprobs=True)
    _, backend = answer_of(technique, lambda r: "{}", request, **options)
    assert request.params in [r.params for r in backend.requests]
    assert all(
        r.params in (request.params, Request.of("", temperature=0.2, seed=4).params) for r in backend.requests[:1]
    )


# -- monte_carlo_tree_search


def _mcts_steps(request: Request) -> list[str]:
    shown = request.text.rsplit("<steps>\n", 1)[1].split("\n</steps>")[0]
    return re.split(r"\[Step \d+\]\n", shown)[1:]


def _mcts_script(request: Request) -> str:
    """Always another step; the judge likes the third first step best."""
    if "Score: <number>" in request.text:
        return f"Score: {9 if 'third' in request.text else 2}"
    if "Write the next step only" in request.text:
        return ("first", "second", "third")[request.sample[-1]]
    return "written from " + _mcts_steps(request)[0].strip()


def test_mcts_shows_the_question_to_everyone_it_asks() -> None:
    conversation = (Message("system", "Be brief."), Message("user", "How many ships?"))
    _, backend = answer_of(monte_carlo_tree_search, _mcts_script, Request(conversation))
    assert len(backend.requests) == 17
    for request in backend.requests:
        assert "How many ships?" in "".join(message.text for message in request.messages)
        roles = [message.role for message in request.messages]
        assert roles in (["user"], ["system", "user"])


def test_mcts_scores_decide_at_the_defaults() -> None:
    assert answer_of(monte_carlo_tree_search, _mcts_script)[0].text == "written from third"

    def turned(request: Request) -> str:
        if "Score: <number>" in request.text:
            return f"Score: {9 if 'second' in request.text else 2}"
        return _mcts_script(request)

    assert answer_of(monte_carlo_tree_search, turned)[0].text == "written from second"


def test_mcts_descends_more_than_one_level_and_expands_nothing_twice() -> None:
    def unlike(request: Request) -> str:
        if "Score: <number>" in request.text:
            return f"Score: {9 if 'third' in request.text else 2}"
        return f"{_mcts_script(request)} of {len(_mcts_steps(request))}"

    _, backend = answer_of(monte_carlo_tree_search, unlike, simulations=60, depth=10)
    asked = [request for request in backend.requests if "Write the next step only" in request.text]
    assert len(set(asked)) == len(asked) == 60
    assert max(len(_mcts_steps(request)) for request in asked) >= 3


def test_mcts_a_question_with_goodbye_in_it_is_a_question() -> None:
    completion, _ = answer_of(monte_carlo_tree_search, _mcts_script, "Why do people say goodbye?")
    assert completion.text == "written from third"


def test_mcts_empty_replies_do_not_crash_it() -> None:
    with pytest.raises(TechniqueError, match="blank"):
        answer_of(monte_carlo_tree_search, lambda request: "")


def test_mcts_an_unreadable_score_is_not_a_half() -> None:
    def script(request: Request) -> str:
        if "Score: <number>" in request.text:
            return "Hard to say." if "first" in request.text else f"Score: {1 if 'second' in request.text else 4}"
        return _mcts_script(request)

    assert answer_of(monte_carlo_tree_search, script, simulations=3)[0].text == "written from third"


# -- rstar


def _rstar_answer(said: str, question: str = "Of 12 and 99?") -> str | None:
    return answer_of(rstar, lambda request: f"So.\nFinal answer: {said}", question, rollouts=4)[0].answer


@pytest.mark.parametrize(
    ("said", "answer"),
    [("-5", "-5"), ("3.14", "3.14"), ("1,234", "1,234"), ("-3.75 dollars", "-3.75 dollars"), ("Paris", "Paris")],
)
def test_rstar_answers_of_every_kind_are_whole(said: str, answer: str) -> None:
    assert _rstar_answer(said) == answer


def test_rstar_equal_answers_in_another_form_agree_and_words_do_not() -> None:
    """The majority says 1234 in three ways; the wordings of the answers have little in common."""
    forms = ("1,234", "1234.0", "$1234", "77", "78", "79")

    def script(request: Request) -> str:
        if "Go on from there" in request.text and len(request.sample) > 1:
            return "It comes to 1234 all in all.\nFinal answer: 1234"
        return f"Final answer: {forms[request.sample[0] % 6]}"

    completion, _ = answer_of(rstar, script, rollouts=6, depth=2)
    assert completion.answer in forms[:3]


def test_rstar_numbers_of_the_question_do_not_win() -> None:
    completion, _ = answer_of(
        rstar, lambda request: "I do not know at all what this is about or how to go on with it.", "What is 12 + 99?"
    )
    assert completion.answer is None


def test_rstar_a_tree_is_built_and_its_actions_are_not_at_random() -> None:
    """The first actions are each tried in turn; later rollouts go on below the earlier ones."""
    model, backend = scripted(lambda request: f"thought {request.sample}")
    run(rstar(model, Request.of("Q"), rollouts=40, depth=4))
    first = [request for request in backend.requests if len(request.sample) == 1]
    assert len(first) == 6  # A1 and A3 twice, A2 and A5 once, none of them twice the same
    assert len({request.messages for request in first}) == 4
    below = [request.sample for request in backend.requests if len(request.sample) == 2]
    assert max(sum(sample[0] == start[0] for sample in below) for start in below) >= 3


def test_rstar_rewards_reach_the_leaves_and_decide() -> None:
    """Two of three trajectories agree, and they do not come first."""

    def script(request: Request) -> str:
        if len(request.sample) > 1:
            return "Final answer: unlike any"
        return f"Final answer: {'late' if request.sample[0] else 'early'}"

    assert answer_of(rstar, script, rollouts=3)[0].answer == "late"


def test_rstar_keeps_the_users_system_prompt_and_answers_with_the_work() -> None:
    request = Request.of("Q?", system="You are a pirate.")
    completion, backend = answer_of(rstar, lambda request: "Aye.\nFinal answer: 4", request, rollouts=4)
    assert all(asked.messages[0] == Message("system", "You are a pirate.") for asked in backend.requests)
    assert completion.text != completion.answer
    assert completion.text.endswith("Aye.\nFinal answer: 4")


def test_rstar_another_model_can_discriminate_and_all_its_calls_are_at_once() -> None:
    model, _ = scripted(lambda request: f"Final answer: {request.sample}")
    other, asked = scripted(lambda request: "Final answer: 1", waves=True)
    run(rstar(model, Request.of("Q"), rollouts=4, discriminator=other))
    assert len(asked.batches) == 1
    assert len(asked.requests) >= 3


# -- z3_solver, program_of_thoughts


def programs_writes(*programs: str) -> Callable[[Request], str]:
    """A model that writes each program in turn, and then says what the result is that it was shown."""

    def script(request: Request) -> str:
        text = request.text
        for opened, closed in (("<output>\n", "\n</output>"), ("the solver said:\n\n<result>\n", "\n</result>")):
            if opened in text:
                return text.split(opened)[1].split(closed)[0]
        turn = sum("<result>" in message.text for message in request.messages)
        return f"Solver: yes\n```python\n{programs[turn]}\n```" if len(request.text) > 100 else "by myself"

    return script


def test_programs_secrets_of_the_environment_do_not_reach_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    program = "import os\nprint('found:', os.environ.get('OPENAI_API_KEY'), len(os.environ))"
    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        completion, backend = answer_of(technique, programs_writes(program), **options)
        assert completion.text == "found: None 0"
        assert not any("sk-very-secret" in message.text for r in backend.requests for message in r.messages)


def test_programs_a_rational_is_the_number_and_not_an_unknown_of_that_name() -> None:
    program = (
        "from z3 import *\nfrom sympy import Rational\nx = Real('x')\nsolve(x == Q(1, 3) + 1)\nprint(Rational(1, 3))"
    )
    completion, _ = answer_of(z3_solver, programs_writes(program), language="python")
    assert completion.text == "[x = 4/3]\n1/3"


def test_programs_a_function_sees_the_names_around_it() -> None:
    program = "import math\nsides = (3, 4)\ndef longest():\n    return math.hypot(*sides)\nprint(longest())"
    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        assert answer_of(technique, programs_writes(program), **options)[0].text == "5.0"


def test_programs_the_last_repair_is_run() -> None:
    programs = programs_writes("1 / 0", "nobody()", "import nothing", "print('mended')")
    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        completion, backend = answer_of(technique, programs, repairs=3, **options)
        assert (completion.text, len(backend.requests)) == ("mended", 5)


def test_programs_an_output_that_speaks_of_errors_is_no_failure() -> None:
    program = programs_writes("print('Standard Error: 0.5')")
    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        completion, backend = answer_of(technique, program, **options)
        assert (completion.text, len(backend.requests)) == ("Standard Error: 0.5", 2)


def test_programs_an_empty_output_is_no_success() -> None:
    programs = programs_writes("print()", "print(5)")
    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        completion, backend = answer_of(technique, programs, **options)
        assert (completion.text, len(backend.requests)) == ("5", 3)
        assert "printed nothing" in backend.requests[1].text


def test_programs_a_marker_in_bold_type_is_read() -> None:
    def script(request: Request) -> str:
        if "the solver said" in request.text:
            return "solved"
        return "**Solver:** Yes\n```smt2\n(assert true)(check-sat)\n```" if len(request.text) > 100 else "by myself"

    assert answer_of(z3_solver, script)[0].text == "solved"


def test_programs_usage_counts_every_call_and_nothing_of_another_request() -> None:
    said = programs_writes("1 / 0", "print(5)")

    def script(request: Request) -> Completion:
        return Completion(said(request), usage=Usage(7, 3, 1))

    for technique, options in ((z3_solver, {"language": "python"}), (program_of_thoughts, {})):
        for _ in range(2):
            assert answer_of(technique, script, **options)[0].usage == Usage(21, 9, 3)


def test_programs_code_of_the_message_is_never_run() -> None:
    message = "What does this do?\n```python\nprint('from the message')\n```"
    completion, backend = answer_of(program_of_thoughts, lambda r: "It prints a text.", message)
    assert (completion.text, completion.answer, len(backend.requests)) == ("It prints a text.", None, 1)
    completion, _ = answer_of(program_of_thoughts, programs_writes("print('its own')"), message)
    assert completion.text == "its own"


def test_programs_run_as_they_were_written() -> None:
    program = "figure = 3  # plt.show() is not called\nprint(figure)"
    assert answer_of(program_of_thoughts, programs_writes(program))[0].text == "3"


# -- round_trip


def round_trips(first: str | Completion, anew: str | Completion, other: str | Completion = "?") -> Completion:
    def script(request: Request) -> str | Completion:
        if "Describe what" in request.text:
            return "A function."
        if "<description>" in request.text:
            return anew
        if "up to ten calls" in request.text:
            return "```python\nf(1)\nf(3)\n```"
        return other if "Neither is known" in request.text else first if request.text == "Q?" else "Cannot say."

    return answer_of(round_trip, script)[0]


ROUND_TRIP_FIRST = "Take this:\n```python\ndef f(x):\n    return x * x\n```\nIt squares."


def test_round_trip_equal_programs_need_not_be_equal_text() -> None:
    anew = "```python\ndef f(value):\n    return value ** 2\n```"
    merged = "```python\ndef f(x):\n    return 'merged'\n```"
    assert round_trips(ROUND_TRIP_FIRST, anew, merged).text == ROUND_TRIP_FIRST


def test_round_trip_a_merged_program_is_not_trusted_unseen() -> None:
    anew = "```python\ndef f(x):\n    return x + x\n```"
    merged = "Here:\n```python\ndef f(x):\n    return 'drifted'\n```"
    assert round_trips(ROUND_TRIP_FIRST, anew, merged).text == ROUND_TRIP_FIRST


@pytest.mark.parametrize("cut", [Completion("```python\ndef f(", "length"), Completion("", "length"), "", "No."])
def test_round_trip_a_reply_that_is_cut_off_does_not_lose_the_first(cut: str | Completion) -> None:
    other = "```python\ndef f(x):\n    return x + x\n```"
    assert round_trips(ROUND_TRIP_FIRST, cut).text == ROUND_TRIP_FIRST
    assert round_trips(ROUND_TRIP_FIRST, other, cut).text == ROUND_TRIP_FIRST
    assert round_trips(cut, "?").finish_reason == (cut.finish_reason if isinstance(cut, Completion) else "stop")


def test_round_trip_the_answer_has_one_shape_on_every_path() -> None:
    better = "def f(x):\n    return x * x * 1"
    for anew in ("```python\ndef f(x):\n    return x*x\n```", f"```python\n{better}\n```", "No code."):
        completion = round_trips(ROUND_TRIP_FIRST, anew)
        assert completion.text.startswith("Take this:\n```python\ndef f(x)")
        assert completion.text.endswith("\n```\nIt squares.")
        assert completion.answer is not None
        assert completion.answer.startswith("def f(x)")


# -- best_of_n


@pytest.mark.parametrize("score", ["8/10", "Rating: 9", "**10**", "**Score:** 8", "Fine, but long.\n9", "Score: 8.5"])
def test_bon_a_score_counts_however_it_is_written(score: str) -> None:
    def script(request: Request) -> str:
        if "<answer>" in request.text:
            return score if "<answer>\nsecond\n" in request.text else "Score: 3"
        return ("first", "second", "third")[request.sample[-1]]

    assert answer_of(best_of_n, script, n=3)[0].text == "second"


def test_bon_the_judge_is_asked_in_one_turn_of_the_user_and_is_not_shown_answers_as_its_own() -> None:
    request = Request((Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b")))
    for judging in ("score", "pairwise", "tournament", "select"):
        _, backend = answer_of(best_of_n, lambda r: f"draw {r.sample}", request, judging=judging)
        judged = [r for r in backend.requests if "<conversation>" in r.text]
        assert judged
        assert all([message.role for message in r.messages] == ["user"] for r in judged)


def test_bon_a_failure_is_raised_and_not_repeated() -> None:
    def refuse(request: Request) -> str:
        raise AuthenticationFailed("the key is wrong")

    model, backend = scripted(refuse, waves=True)
    with pytest.raises(AuthenticationFailed, match="the key is wrong"):
        run(best_of_n(model, Request.of("Q?"), n=4))
    assert len(backend.requests) <= 4


def test_bon_answers_are_asked_at_once_and_so_are_verdicts() -> None:
    _, backend = answer_of(best_of_n, lambda r: f"draw {r.sample}", n=3)
    assert backend.batches == [3, 3]


# -- mixture_of_agents


def test_moa_a_critique_that_was_cut_off_is_given_as_far_as_it_goes() -> None:
    def script(request: Request) -> Completion:
        if "Criticise each answer" in request.text:
            return Completion("The second errs where it", "length")
        return Completion(f"draft {request.sample}" if request.sample else str(request.messages[0].content))

    completion, _ = answer_of(mixture_of_agents, script, layers=2, critiques=True)
    assert completion.text.endswith("[Critique]\nThe second errs where it\n(cut off here: it was too long)")


def test_moa_missing_drafts_are_not_padded_with_copies() -> None:
    def script(request: Request) -> str:
        return ("only", "", "")[request.sample[-1]] if request.sample else str(request.messages[0].content)

    completion, _ = answer_of(mixture_of_agents, script, layers=2)
    assert re.findall(r"\[Answer \d\]\n(\w+)", completion.text) == ["only"]


def test_moa_the_users_parameters_are_honoured() -> None:
    request = Request.of("Q?", temperature=0.3, top_p=0.5, seed=7, stop=["x"], max_tokens=99)
    _, backend = answer_of(mixture_of_agents, lambda r: f"draft {r.sample}", request)
    assert all(asked.params == request.params for asked in backend.requests)


# -- prover_verifier_game


def _pvg_script(request: Request) -> str:
    """A verifier that is taken in by all that is sneaky, and writes its scores in bold."""
    if "<solution>" in request.text:
        return f"Convincing.\n**Score:** {9 if 'is 13' in request.text else 8}"
    sneaky = "convincing solution" in str(request.messages[0].content)
    return "The answer is 13." if sneaky else "The answer is 12."


def test_pvg_a_deliberately_wrong_answer_is_never_returned() -> None:
    assert answer_of(prover_verifier_game, _pvg_script)[0].answer == "12"


def test_pvg_a_score_in_bold_counts() -> None:
    def script(request: Request) -> str:
        if "<solution>" in request.text:
            return f"Checked.\n**Score:** {8 if 'is 11' in request.text else 2}"
        if "convincing solution" in str(request.messages[0].content):
            return "The answer is 13."
        return f"The answer is {(12, 11, 12)[request.sample[-1]]}."

    assert answer_of(prover_verifier_game, script)[0].answer == "11"


def test_pvg_usage_is_that_of_one_request() -> None:
    def cost(question: str) -> int:
        return run(prover_verifier_game(model, Request.of(question))).usage.calls

    model, _ = scripted(_pvg_script)
    assert [cost("One?"), cost("Two?"), cost("Three?")] == [24, 24, 24]


def test_pvg_all_rounds_are_about_the_users_question() -> None:
    _, backend = answer_of(prover_verifier_game, _pvg_script, "How many eggs?", rounds=3)
    provers = [r for r in backend.requests if "<solution>" not in r.text]
    assert len(provers) == 18
    assert all(r.messages[-1] == Message("user", "How many eggs?") for r in provers)
    verdicts = [r for r in backend.requests if "<solution>" in r.text]
    assert all("user: How many eggs?" in r.text for r in verdicts)


# -- plan_search


def _plansearch_script(request: Request) -> str:
    if "numbered list" in request.text:
        return "Some observations:\n1. It rhymes,\n   always.\n2. It is short.\n3. It is about the sea."
    return f"A poem {request.sample}"


def test_plansearch_a_question_that_is_not_about_code_is_not_answered_in_code() -> None:
    completion, backend = answer_of(plan_search, _plansearch_script, "Write a poem.")
    assert completion.text.startswith("A poem")
    for request in backend.requests:
        assert not re.search(r"\b(?:python|code|program)\b", request.text, re.IGNORECASE)


def test_plansearch_gives_one_completion_and_the_others_beside_it() -> None:
    completion, _ = answer_of(plan_search, _plansearch_script, n=1)
    assert (type(completion), completion.alternatives) == (Completion, ())
    assert len(answer_of(plan_search, _plansearch_script, n=4)[0].alternatives) == 3


def test_plansearch_plans_stand_on_different_observations_each_of_them_whole() -> None:
    _, backend = answer_of(plan_search, _plansearch_script, n=6, rethink=False)
    derived = [r.text for r in backend.requests if "Derive" in r.text]
    assert len(set(derived)) == 6
    assert sum("1. It rhymes,\n   always.\n\n2. It is short.\n\nDerive" in text for text in derived) == 1


# -- genselect: selection, as an option of best-of-n


def test_genselect_a_judge_that_always_picks_the_first_decides_nothing() -> None:
    def script(request: Request) -> str:
        return "Verdict: 1" if "[Answer 1]" in request.text else f"draw {request.sample}"

    _, backend = answer_of(best_of_n, script, judging="select", votes=4)
    shown = [r.text.split("[Answer 1]\n")[1].split("\n")[0] for r in backend.requests[4:]]
    assert sorted(shown) == [f"draw ({i},)" for i in range(4)]


def test_genselect_a_tournament_is_one() -> None:
    _, backend = answer_of(best_of_n, lambda r: f"draw {r.sample}", n=8, judging="tournament")
    assert backend.batches == [8, 8, 4, 2]


# -- self_consistency


def test_sc_four_wordings_of_one_answer_beat_one_of_another() -> None:
    """Whole texts compared, these are five answers of one vote each."""
    says = in_turn(
        "Adding up by hand, I would say the answer is 50.",
        "Twelve boxes of five: the answer is 60.",
        "We multiply 12 by 5. So there are 60 apples in all.\n\nAnswer: 60",
        r"10 x 5 = 50 and 2 x 5 = 10, which gives \boxed{60}.",
        "The answer is $60.00",
    )
    completion, _ = answer_of(self_consistency, says, n=5)
    assert completion.answer == "60"
    assert completion.text == "Twelve boxes of five: the answer is 60."


def test_sc_short_texts_that_contradict_each_other_are_not_one_answer() -> None:
    """By the letters they have in common the first three are nearly equal."""
    answers = (50, 40, 30, 60, 60)
    completion, _ = answer_of(self_consistency, in_turn(*(f"The answer is {a}." for a in answers)), n=5)
    assert completion.answer == "60"


def test_sc_the_last_statement_of_an_answer_counts() -> None:
    says = in_turn(
        "At first sight the answer is 50. But two boxes are left out: the answer is 60.", "The answer is 50."
    )
    completion, _ = answer_of(self_consistency, says, n=1)
    assert completion.answer == "60"


def test_sc_a_vote_is_on_the_whole_answer_and_not_on_its_first_letter() -> None:
    says = in_turn(r"So \boxed{50}", r"Thus \boxed{60}", r"It is \boxed{60}", r"There: \boxed{60}")
    completion, _ = answer_of(self_consistency, says, n=4)
    assert (completion.answer, completion.text) == ("60", r"Thus \boxed{60}")


def test_sc_samples_are_asked_at_once() -> None:
    assert answer_of(self_consistency, in_turn("The answer is 1."), n=8)[1].batches == [8]
    assert answer_of(self_consistency, in_turn("The answer is 1."), n=8, stop="settled")[1].batches == [4]
