"""Both programs are really run: agreement keeps the first answer, and a difference is decided by what was seen."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.backends.scripted import Script
from shoal.errors import BadRequest, SandboxUnavailable, UsageError
from shoal.runtime.model import apply
from shoal.runtime.types import Completion, Json, Message, Request, Usage, total
from shoal.techniques.round_trip import round_trip

SQUARE = "def f(x):\n    return x * x"
POWER = "def f(number):\n    # the same\n    return number ** 2"
DOUBLE = "def f(x):\n    return x + x"
CALLS = "```python\nf(0)\nf(2)\nf(3)\n```"
TESTS = "Write f.\n\nassert f(2) == 4\nassert f(3) == 9\nassert f(0) == 0"


def reply(code: str, language: str = "python") -> str:
    return f"Here it is.\n\n```{language}\n{code}\n```\n\nIt is fast."


def step(request: Request) -> str:
    """Which call of a round trip this is."""
    marks = {
        "Describe what": "describe",
        "<description>": "anew",
        "up to ten calls": "calls",
        "Which one does": "judge",
        "Neither is known": "merge",
    }
    return next((name for mark, name in marks.items() if mark in request.text), "first")


def trip(**said: str | Completion) -> Script:
    """A model that says so at each call of a round trip; `judge` names the program it prefers, wherever that stands."""
    defaults: dict[str, str | Completion] = {"describe": "A function f.", "calls": CALLS}

    def script(request: Request) -> str | Completion:
        now = step(request)
        preferred = said.get("judge")
        if now == "judge" and isinstance(preferred, str):
            one = request.text.split("<program_1>\n")[1].split("\n</program_1>")[0]
            return f"Hm.\n**Better:** {1 if one == preferred else 2}" if "\n" in preferred else preferred
        return {**defaults, **said}[now]

    return script


def steps(requests: list[Request]) -> list[str]:
    return [step(request) for request in requests]


def test_equal_syntax_keeps_the_first_answer_whole() -> None:
    again = 'def f(x):\n    """Square."""\n    return x*x  # squared'
    completion, backend = answer_of(round_trip, trip(first=reply(SQUARE), anew=reply(again)))
    assert (completion.text, completion.answer) == (reply(SQUARE), SQUARE)
    assert backend.batches == [1, 2, 1]
    spent = [len(text.split()) for text in (reply(SQUARE), "A function f.", CALLS, reply(again))]
    prompts = sum(len(request.text.split()) for request in backend.requests)
    assert completion.usage == Usage(prompts, sum(spent), 4)


def test_equal_behaviour_keeps_the_first_answer_whatever_the_names_within() -> None:
    completion, backend = answer_of(round_trip, trip(first=reply(SQUARE), anew=reply(POWER)))
    assert (completion.text, len(backend.requests)) == (reply(SQUARE), 4)


def test_the_way_back_sees_the_description_alone() -> None:
    _, backend = answer_of(round_trip, trip(first=reply(SQUARE), anew=reply(POWER)), "Write f, the secret one.")
    describe, back = (next(r for r in backend.requests if step(r) == name) for name in ("describe", "anew"))
    assert SQUARE in describe.text
    assert "secret" not in describe.text
    assert "A function f." in back.text
    assert not any(said in back.text for said in ("secret", "x * x", "It is fast"))


def test_calls_that_only_fail_show_no_agreement() -> None:
    script = trip(first=reply(SQUARE), anew=reply(POWER), calls="```python\nnobody(1)\n```", judge="Better: same")
    completion, backend = answer_of(round_trip, script)
    assert completion.text == reply(SQUARE)
    assert steps(backend.requests).count("judge") == 2


def test_the_judge_decides_what_runs_show_to_differ() -> None:
    completion, backend = answer_of(round_trip, trip(first=reply(DOUBLE), anew=reply(SQUARE), judge=SQUARE))
    assert completion.text == reply(SQUARE)  # the first reply with the better code in its place
    assert completion.answer == SQUARE
    assert backend.batches == [1, 2, 1, 2]
    there, back = backend.requests[-2:]
    assert "f(3)\nprogram 1: 6\nprogram 2: 9" in there.text
    assert "f(3)\nprogram 1: 9\nprogram 2: 6" in back.text
    assert "f(2)" not in there.text.split("<differences>")[1]
    completion, _ = answer_of(round_trip, trip(first=reply(DOUBLE), anew=reply(SQUARE), judge=DOUBLE))
    assert completion.text == reply(DOUBLE)


def test_another_model_can_judge() -> None:
    model, asked = scripted(trip(first=reply(DOUBLE), anew=reply(SQUARE)))
    judge, judging = scripted(trip(judge=SQUARE))
    completion = run(round_trip(model, Request.of("Q?"), judge=judge))
    assert (completion.answer, len(asked.requests), len(judging.requests)) == (SQUARE, 4, 2)
    assert completion.usage.calls == 6


@pytest.mark.parametrize("verdict", ["Better: 1", "I cannot say.", Completion("Better: 1 or 2, let me", "length")])
def test_a_judge_that_contradicts_itself_or_says_nothing_leads_to_a_merge(verdict: str | Completion) -> None:
    said = {"first": reply(DOUBLE), "anew": reply(SQUARE), "judge": verdict, "merge": "Merged.\n" + reply(POWER)}
    completion, backend = answer_of(round_trip, trip(**said))
    assert (completion.text, completion.answer) == ("Merged.\n" + reply(POWER), POWER)
    assert backend.batches == [1, 2, 1, 2, 1]
    assert completion.usage.calls == 7
    completion, backend = answer_of(round_trip, trip(**said), merge=False)
    assert (completion.text, len(backend.requests)) == (reply(DOUBLE), 6)


def test_a_verdict_that_was_cut_off_is_missing() -> None:
    said = trip(first=reply(DOUBLE), anew=reply(SQUARE), judge=SQUARE, merge="No.")

    def script(request: Request) -> Completion:
        answer = said(request)
        assert isinstance(answer, str)
        return Completion(answer, "length" if step(request) == "judge" else "stop")

    completion, backend = answer_of(round_trip, script)
    assert (completion.answer, steps(backend.requests)[-1]) == (DOUBLE, "merge")


@pytest.mark.parametrize(
    "merged",
    [
        reply("def f(x):\n    return 7"),  # neither program does so
        reply("def g(x):\n    return x * x"),
        "I would not merge them.",
        Completion("```python\ndef f(x", "length"),
        Completion(reply(SQUARE), "length"),
        "",
    ],
)
def test_a_merge_that_does_not_hold_never_replaces_the_first(merged: str | Completion) -> None:
    script = trip(first=reply(DOUBLE), anew=reply(SQUARE), judge="who knows", merge=merged)
    completion, backend = answer_of(round_trip, script)
    assert (completion.text, completion.answer, completion.finish_reason) == (reply(DOUBLE), DOUBLE, "stop")
    assert len(backend.requests) == 7


def test_a_first_program_that_passes_the_tests_needs_no_round_trip() -> None:
    completion, backend = answer_of(round_trip, trip(first=reply(SQUARE)), TESTS)
    assert (completion.text, completion.answer, len(backend.requests)) == (reply(SQUARE), SQUARE, 1)


def test_more_passed_tests_win_without_a_judge() -> None:
    completion, backend = answer_of(round_trip, trip(first=reply(DOUBLE), anew=reply(SQUARE)), TESTS)
    assert (completion.text, completion.answer) == (reply(SQUARE), SQUARE)
    assert steps(backend.requests) == ["first", "describe", "anew"]
    worse = reply("def f(x):\n    return 1")
    completion, _ = answer_of(
        round_trip, trip(first=reply(DOUBLE), anew=worse), tests="assert f(2) == 4\nassert f(3)==9"
    )
    assert completion.text == reply(DOUBLE)


def test_a_merge_must_pass_more_tests_than_the_first() -> None:
    nine = reply("def f(x):\n    return 9 if x else 1")
    zero = reply("def f(x):\n    return 0")
    for merged, kept in ((SQUARE, SQUARE), ("def f(x):\n    return 4", "def f(x):\n    return 0")):
        script = trip(first=zero, anew=nine, judge="who knows", merge=reply(merged))
        completion, backend = answer_of(round_trip, script, TESTS)
        assert completion.answer == kept
        assert "assert f(2) == 4" in backend.requests[-1].text


@pytest.mark.parametrize(
    "lost",
    [
        {"describe": Completion("A function that", "length")},
        {"describe": ""},
        {"anew": "No."},
        {"anew": Completion("```python\ndef f(", "length")},
        {"anew": ""},
    ],
)
def test_what_is_cut_off_or_without_code_never_loses_the_first(lost: dict[str, str | Completion]) -> None:
    completion, _ = answer_of(round_trip, trip(**{"first": reply(SQUARE), "anew": reply(DOUBLE), **lost}))
    assert (completion.text, completion.answer) == (reply(SQUARE), SQUARE)


def test_without_calls_the_judge_decides() -> None:
    script = trip(first=reply(DOUBLE), anew=reply(SQUARE), calls=Completion("", "length"), judge=SQUARE)
    completion, backend = answer_of(round_trip, script)
    assert completion.answer == SQUARE
    assert "None could be found" in backend.requests[-1].text


def test_programs_are_compared_by_what_they_print() -> None:
    one, two = reply("print(sum(range(5)))"), reply("total = 10\nprint(total)")
    completion, backend = answer_of(round_trip, trip(first=one, anew=two, calls="```python\n```"))
    assert (completion.text, len(backend.requests)) == (one, 4)


def test_other_languages_are_compared_as_text_and_by_the_judge_and_not_merged() -> None:
    one, two = "let f = x => x * x", "const f = (x) => x * x;"
    completion, backend = answer_of(round_trip, trip(first=reply(one, "js"), anew=reply(one + "\n", "js")))
    assert (completion.text, len(backend.requests)) == (reply(one, "js"), 3)
    script = trip(first=reply(one, "js"), anew=reply(two, "js"), judge="no idea")
    completion, backend = answer_of(round_trip, script)
    assert (completion.text, steps(backend.requests)[-1]) == (reply(one, "js"), "judge")


def test_tests_for_python_tell_nothing_of_another_language() -> None:
    one, two = reply("let f = x => x * x", "js"), reply("const f = (x) => x * x;", "js")
    completion, backend = answer_of(round_trip, trip(first=one, anew=two, judge="no idea"), TESTS)
    assert completion.text == one
    assert steps(backend.requests) == ["first", "describe", "anew", "judge", "judge"]


def test_the_way_back_does_not_wait_for_the_calls() -> None:
    done: list[str] = []
    said = trip(first=reply(SQUARE), anew=reply(POWER))
    anew = asyncio.Event()

    async def script(request: Request) -> str | Completion:
        if step(request) == "calls":
            await anew.wait()
        done.append(step(request))
        if done[-1] == "anew":
            anew.set()
        answer = said(request)
        assert isinstance(answer, str)
        return answer

    model, _ = scripted(script)
    assert run(asyncio.wait_for(round_trip(model, Request.of("Q?")), 20)).answer == SQUARE
    assert done == ["first", "describe", "anew", "calls"]


def test_an_answer_without_code_is_returned_as_it_is() -> None:
    completion, backend = answer_of(round_trip, lambda r: "Paris.", "What is the capital of France?")
    assert (completion.text, completion.answer, len(backend.requests)) == ("Paris.", None, 1)
    call = Json.of({"function": {"name": "f", "arguments": "{}"}})
    called, backend = answer_of(round_trip, lambda r: Completion("", "tool_calls", tool_calls=(call,)))
    assert (called.tool_calls, len(backend.requests)) == ((call,), 1)
    cut, backend = answer_of(round_trip, lambda r: Completion("```python\ndef f(", "length"))
    assert (cut.finish_reason, len(backend.requests)) == ("length", 1)


def test_the_conversation_and_the_form_are_kept() -> None:
    turns = (Message("system", "Be kind."), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    request = Request(turns).with_params(stop=("END",), temperature=0.4).draw(3)
    script = trip(first=reply(DOUBLE), anew=reply(SQUARE), judge="who knows", merge=reply(SQUARE))
    _, backend = answer_of(round_trip, script, request)
    by_step = {step(asked): asked for asked in backend.requests}
    assert by_step["first"] == request
    assert by_step["merge"].messages[:3] == turns[:3]
    assert by_step["merge"].params == request.params
    assert all(said in by_step["judge"].text for said in ("Be kind.", "b", "c"))
    assert (by_step["judge"].params.temperature, by_step["judge"].params.stop) == (0.0, ())
    assert (by_step["describe"].params.temperature, by_step["describe"].params.stop) == (0.4, ())
    assert {asked.sample for asked in backend.requests} == {(3,)}


def test_the_answer_does_not_depend_on_the_order_of_completion() -> None:
    said = trip(first=reply(DOUBLE), anew=reply(SQUARE), judge="Better: 1", merge=reply(POWER))

    def slow(order: dict[str, int]) -> Callable[[Request], Awaitable[str | Completion]]:
        async def script(request: Request) -> str | Completion:
            for _ in range(order.get(step(request), 0)):
                await asyncio.sleep(0)
            answer = said(request)
            assert isinstance(answer, str | Completion)
            return answer

        return script

    assert answer_of(round_trip, slow({"calls": 9}))[0] == answer_of(round_trip, slow({"describe": 9}))[0]


def test_usage_is_the_sum_of_every_call() -> None:
    count = iter(range(1, 100))
    spent: list[Usage] = []
    said = trip(first=reply(DOUBLE), anew=reply(SQUARE), judge="who knows", merge=reply(POWER))

    def script(request: Request) -> Completion:
        text = said(request)
        assert isinstance(text, str)
        spent.append(Usage(next(count), next(count), 1))
        return Completion(text, usage=spent[-1])

    completion, _ = answer_of(round_trip, script)
    assert completion.usage == total(spent)
    assert completion.usage.calls == 7


def test_a_failed_call_fails_the_whole_with_its_own_error() -> None:
    def script(request: Request) -> str:
        if step(request) == "calls":
            raise BadRequest("no")
        return reply(SQUARE)

    with pytest.raises(BadRequest, match="no"):
        answer_of(round_trip, script)


@pytest.mark.parametrize("options", [{"seconds": 0.0}, {"tests": "nothing"}])
def test_bad_options_cost_nothing(options: dict[str, object]) -> None:
    model, backend = scripted(lambda r: "x")
    with pytest.raises(UsageError, match=f"{next(iter(options))}="):
        run(apply(round_trip, model, **options)("Q?"))
    assert backend.requests == []


def test_without_a_sandbox_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SANDBOX", "off")
    model, backend = scripted(lambda r: "x")
    with pytest.raises(SandboxUnavailable, match="SHOAL_SANDBOX"):
        run(apply(round_trip, model)("Q?"))
    assert backend.requests == []


def test_the_second_program_stands_in_the_prose_of_the_first_whatever_the_layout() -> None:
    def second(first: str) -> str:
        return answer_of(round_trip, trip(first=first, anew=reply(POWER), judge=POWER, calls="-"))[0].text

    double = "def f(x):\n  y = x\n\n  return y + y"
    assert POWER in second(reply(double))
    windows = second(reply(double).replace("\n", "\r\n"))
    assert (windows[:7], windows[-11:]) == ("Here it", "It is fast.")
    listed = second(
        "1. So:\n   ```python\n" + "\n".join("   " + line for line in double.split("\n")) + "\n   ```\nDone."
    )
    assert listed == "1. So:\n   ```python\n" + "\n".join("   " + it for it in POWER.split("\n")) + "\n   ```\nDone."
