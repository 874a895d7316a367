"""Programs are really run: what they print is the answer, failures are mended, tests choose among programs."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.scripting import answer_of, run, scripted

from shoal.errors import BadRequest, SandboxUnavailable, UsageError
from shoal.runtime.model import apply, stream
from shoal.runtime.types import Completion, Json, Message, Request, Usage
from shoal.techniques.program_of_thoughts import program_of_thoughts


def fenced(program: str) -> str:
    return f"I compute it.\n```python\n{program}\n```\n"


def writes(*programs: str) -> Callable[[Request], str]:
    """A model that writes each program in turn, as it is asked to mend the one before, and then the answer."""

    def script(request: Request) -> str:
        if "<output>" in request.text:
            return "It is " + request.text.split("<output>\n")[1].split("\n</output>")[0] + "."
        mended = sum("<result>" in message.text for message in request.messages)
        return fenced(programs[mended])

    return script


def test_the_answer_stands_on_the_output() -> None:
    completion, backend = answer_of(program_of_thoughts, writes("print(6 * 7)"))
    assert (completion.text, completion.answer) == ("It is 42.", "42")
    assert backend.batches == [1, 1]
    assert completion.usage == Usage(
        sum(len(r.text.split()) for r in backend.requests), len(fenced("print(6 * 7)").split()) + 3, 2
    )
    assert "print(6 * 7)" in backend.requests[-1].text


def test_without_explain_the_output_is_the_answer() -> None:
    completion, backend = answer_of(program_of_thoughts, writes("print('half:')\nprint(1 / 2)"), explain=False)
    assert (completion.text, completion.answer, completion.usage.calls) == ("half:\n0.5", "0.5", 1)
    assert len(backend.requests) == 1
    # Where a form was asked for, only a call can give it.
    form = Request.of("Q?", json_schema={"type": "number"})
    completion, backend = answer_of(program_of_thoughts, writes("print(0.5)"), form, explain=False)
    assert (len(backend.requests), backend.requests[-1].params) == (2, form.params)


def test_errors_and_empty_outputs_are_mended_and_every_repair_is_run() -> None:
    script = writes("1 / 0", "x = 5", "print(5)")
    completion, backend = answer_of(program_of_thoughts, script, repairs=2)
    assert (completion.answer, completion.usage.calls) == ("5", 4)
    assert len(backend.batches) == 4
    first, second = backend.requests[1], backend.requests[2]
    assert "ZeroDivisionError" in first.text
    assert "printed nothing" in second.text
    assert [m.role for m in second.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert second.messages[:3] == first.messages


def test_what_cannot_be_mended_is_answered_without_a_program() -> None:
    def script(request: Request) -> str:
        return "About 5." if request.text == "Q?" else fenced("1 / 0")

    completion, backend = answer_of(program_of_thoughts, script, repairs=1)
    assert (completion.text, completion.answer, completion.usage.calls) == ("About 5.", None, 3)
    assert backend.requests[-1] == Request.of("Q?")


def test_a_direct_answer_is_the_answer() -> None:
    completion, backend = answer_of(program_of_thoughts, lambda r: "Roses are red.", "Write a poem.")
    assert (completion.text, len(backend.requests)) == ("Roses are red.", 1)


@pytest.mark.parametrize("reply", [Completion(""), Completion("Roses are red and violets are blue, my dear.")])
def test_a_direct_answer_that_will_not_do_is_asked_for_again(reply: Completion) -> None:
    request = Request.of("Write a poem.", max_tokens=5)
    completion, backend = answer_of(
        program_of_thoughts, lambda r: "Roses are red." if r.text == "Write a poem." else reply, request
    )
    assert completion.text == "Roses are red."
    assert backend.requests[-1] == request


def test_a_reply_that_was_cut_off_is_mended_and_not_taken_for_an_answer() -> None:
    def script(request: Request) -> str | Completion:
        if "<output>" in request.text:
            return Completion("It is 7, bec", "length")
        return fenced("print(7)") if "cut off" in request.text else Completion("```python\nprint(6", "length")

    completion, backend = answer_of(program_of_thoughts, script)
    assert (completion.answer, completion.finish_reason, len(backend.requests)) == ("7", "length", 3)
    assert "cut off here" in backend.requests[1].messages[1].text


def test_most_programs_win_and_ties_go_to_the_earliest() -> None:
    printed = {0: "print(1)", 1: "print('2.0')", 2: "print(2)", 3: "1 / 0"}

    def script(request: Request) -> str:
        return "done" if "<output>" in request.text else fenced(printed[request.sample[-1]])

    def answer(n: int) -> str | None:
        return answer_of(program_of_thoughts, script, n=n, repairs=0)[0].answer

    assert [answer(1), answer(2), answer(3), answer(4)] == ["1", "1", "2.0", "2.0"]
    completion, backend = answer_of(program_of_thoughts, script, n=4, repairs=0)
    assert backend.batches == [4, 1]
    assert completion.usage.calls == 5
    assert [r.sample for r in backend.requests] == [(0,), (1,), (2,), (3,), ()]


def test_the_answer_does_not_depend_on_the_order_of_completion() -> None:
    def script(order: list[int]) -> Callable[[Request], Awaitable[str]]:
        async def slow(request: Request) -> str:
            for _ in range(order[(request.sample or (0,))[-1]]):
                await asyncio.sleep(0)
            return "done" if "<output>" in request.text else fenced(f"print({request.sample[-1] % 2})")

        return slow

    replies = [answer_of(program_of_thoughts, script(order), n=4)[0] for order in ([9, 0, 5, 1], [0, 3, 1, 7])]
    assert replies[0] == replies[1]
    assert replies[0].answer == "0"


def test_the_conversation_stays_and_the_form_is_asked_of_the_answer_alone() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:x"}}
    turns = (
        Message("system", "Be kind."),
        Message("user", "First?"),
        Message("assistant", "One."),
        Message("user", Json.of([picture, {"type": "text", "text": "Q?"}])),
    )
    tool = Json.of({"type": "function", "function": {"name": "f"}})
    request = Request(turns, tools=(tool,)).with_params(max_tokens=9, stop=("\n",), temperature=0.7).draw(7)
    _, backend = answer_of(program_of_thoughts, writes("1 / 0", "print(1)"), request)
    program, repair, final = backend.requests
    for asked in (program, repair, final):
        assert asked.messages[:3] == turns[:3]
        assert picture in asked.messages[3].content.value()  # type: ignore[union-attr]
        assert asked.params.temperature == 0.7
    assert (program.params.max_tokens, program.params.stop, program.tools) == (None, (), ())
    assert (final.params, final.tools) == (request.params, request.tools)
    assert [asked.sample for asked in backend.requests] == [(7, 0), (7, 0), (7,)]


def test_a_bare_prompt_is_continued() -> None:
    replies = {"<output>": "It is 1.", "<result>": fenced("print(1)")}

    def script(request: Request) -> str:
        assert request.prompt is not None
        return next((reply for mark, reply in replies.items() if mark in request.prompt), fenced("1 / 0"))

    completion, backend = answer_of(program_of_thoughts, script, Request(prompt="Q:"))
    assert completion.text == "It is 1."
    assert all(str(r.prompt).startswith("Q:") for r in backend.requests)


TESTED = "Write a function f that squares.\n\nassert f(2) == 4\nassert f(3) == 9\nassert f(-1) == 1"
DOUBLE, POWER, SQUARE = (f"def f(x):\n    return x {sign}" for sign in ("+ x", "** abs(x)", "* x"))


def test_the_first_program_that_passes_all_tests_wins_and_no_other_is_mended() -> None:
    programs = (DOUBLE, SQUARE, SQUARE + "\n# again")
    completion, backend = answer_of(program_of_thoughts, lambda r: fenced(programs[r.sample[-1]]), TESTED, n=3)
    assert (completion.text, completion.answer) == (fenced(SQUARE), SQUARE)
    assert backend.batches == [3]
    assert completion.usage.calls == 3
    assert "assert f(3) == 9" in backend.requests[0].text.split("<tests>")[1]


def test_a_failing_test_is_shown_to_the_repair() -> None:
    completion, backend = answer_of(program_of_thoughts, writes(DOUBLE, SQUARE), TESTED)
    assert (completion.answer, len(backend.requests)) == (SQUARE, 2)
    assert "The value of f(3) is 6" in backend.requests[1].text


def test_most_passed_wins_where_none_passes_all() -> None:
    programs = ("def f(x):\n    return 0", "def f(x):\n    return 4", "def f(x):\n    return abs(x) + 2", "1 / 0")
    completion, backend = answer_of(
        program_of_thoughts, lambda r: fenced(programs[r.sample[-1]]), TESTED, n=4, repairs=1
    )
    assert completion.answer == programs[1]
    assert len(backend.requests) == 8
    assert len(backend.batches) >= 2


def test_tests_can_be_given_and_taken_away() -> None:
    assert answer_of(program_of_thoughts, writes(SQUARE), tests="assert f(2) == 4")[0].answer == SQUARE
    completion, _ = answer_of(program_of_thoughts, writes("print(9)"), TESTED, tests="")
    assert (completion.text, completion.answer) == ("It is 9.", "9")


def test_code_in_a_form_takes_one_more_call() -> None:
    request = Request.of(TESTED, json_schema={"type": "object"})
    completion, backend = answer_of(
        program_of_thoughts, lambda r: '{"code": 1}' if r.params.json_schema else fenced(SQUARE), request
    )
    assert (completion.text, completion.answer, completion.usage.calls) == ('{"code": 1}', SQUARE, 2)
    assert SQUARE in backend.requests[-1].text


def test_a_reply_that_breaks_off_after_its_program_is_written_anew() -> None:
    def script(request: Request) -> Completion:
        return Completion("Here: f.") if "<program>" in request.text else Completion(fenced(SQUARE) + "It", "length")

    completion, backend = answer_of(program_of_thoughts, script, TESTED)
    assert (completion.text, completion.answer, completion.finish_reason) == ("Here: f.", SQUARE, "stop")
    assert completion.usage.calls == len(backend.requests) == 2


def test_a_failed_call_fails_the_whole_with_its_own_error() -> None:
    def script(request: Request) -> str:
        if request.sample == (1,):
            raise BadRequest("no")
        return fenced("print(1)")

    with pytest.raises(BadRequest, match="no"):
        answer_of(program_of_thoughts, script, n=3)


def test_a_failure_ends_the_programs_of_the_others_at_once() -> None:
    running = asyncio.Event()

    async def script(request: Request) -> str:
        if request.sample == (1,):
            await running.wait()
            raise BadRequest("no")
        running.set()
        return fenced("while True: pass")

    model, _ = scripted(script)
    asked = apply(program_of_thoughts, model, n=2, seconds=500.0)("Q?")
    with pytest.raises(BadRequest, match="no"):
        run(asyncio.wait_for(asked, 60))


def test_the_answer_streams_as_it_is_written() -> None:
    async def pieces() -> list[str]:
        model, _ = scripted(writes("print(42)"))
        return [piece.text async for piece in stream(apply(program_of_thoughts, model), Request.of("Q?"))]

    *deltas, whole = run(pieces())
    assert deltas == ["It ", "is ", "42."]
    assert whole == "It is 42."


@pytest.mark.parametrize("options", [{"n": 0}, {"repairs": -1}, {"seconds": 0.0}, {"tests": "nothing"}])
def test_bad_options_cost_nothing(options: dict[str, object]) -> None:
    model, backend = scripted(lambda r: "x")
    with pytest.raises(UsageError, match=f"{next(iter(options))}="):
        run(apply(program_of_thoughts, model, **options)("Q?"))
    assert backend.requests == []


def test_without_a_sandbox_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SANDBOX", "off")
    model, backend = scripted(lambda r: "x")
    with pytest.raises(SandboxUnavailable, match="SHOAL_SANDBOX"):
        run(apply(program_of_thoughts, model)("Q?"))
    assert backend.requests == []
