"""A trace as plain data: it says what the spans said, and comes back from JSON as it went."""

import asyncio
import math

import msgspec
import pytest
from tests.scripting import run, scripted

import shoal
from shoal import llm
from shoal.errors import AuthenticationFailed
from shoal.runtime.model import apply, sample
from shoal.runtime.retry import RetryPolicy
from shoal.runtime.trace import Span, tracing
from shoal.runtime.types import Completion, Request, TokenLogprob, Usage
from shoal.techniques.self_consistency import self_consistency
from shoal.traces.data import Failure, Trace, decode, encode, plain


def traced(n: int = 3) -> Span:
    model, _ = scripted(lambda request: f"The answer is {request.sample[0] % 2}.")

    async def program() -> Span:
        with tracing("program") as root:
            await apply(self_consistency, model, n=n)(Request.of("Q?", system="Be brief.", temperature=0.5))
        return root

    return run(program())


def test_a_trace_says_what_the_spans_said() -> None:
    root = traced()
    trace = Trace.of(root)
    assert trace.start == 0.0
    assert trace.end == pytest.approx(root.seconds, abs=1e-5)
    assert trace.began == root.began > 1e9
    (technique,) = trace.children
    assert (technique.name, technique.kind) == ("self_consistency(n=3)", "technique")
    assert [call.request for call in trace.calls()] == [call.request for call in root.calls()]
    assert [call.request.sample for call in trace.calls() if call.request] == [(0,), (1,), (2,)]
    assert trace.usage == root.usage == Usage(9, 12, calls=3)
    assert len(trace.critical_path()) == len(root.critical_path()) == 1
    assert all(0.0 <= call.start <= call.end <= trace.end for call in trace.calls())
    assert Trace.of(trace) is trace


def test_json_and_back() -> None:
    trace = Trace.of(traced())
    assert decode(encode(trace)) == trace
    told = msgspec.json.decode(encode(trace))
    call = told["children"][0]["children"][0]
    assert call["request"]["messages"][1] == {"role": "user", "content": "Q?"}
    assert call["request"]["params"] == {"temperature": 0.5}
    assert call["completion"]["text"] == "The answer is 0."


def test_half_a_character_does_not_stop_it() -> None:
    trace = Trace("m", "call", request=Request.of("\ud800?"), children=(Trace("m", "call", result={"\udfff": 1}),))
    back = decode(encode(trace))
    assert back.request == Request.of("??")
    assert back.children[0].result == {"?": 1}
    shoal.trace_html(trace).encode("utf-8")


def test_cached_calls_are_marked() -> None:
    model, _ = scripted(lambda request: "x")

    async def program() -> Span:
        with tracing() as root:
            await sample(model, Request.of("Q?"), 1)
            await asyncio.gather(model(Request.of("R?")), model(Request.of("R?")))
        return root

    assert [call.cached for call in Trace.of(run(program())).calls()] == [False, False, True]


def test_an_error_is_its_type_and_message() -> None:
    def broken(request: Request) -> str:
        raise AuthenticationFailed("wrong key", endpoint="lab")

    model, _ = scripted(broken)
    spans: list[Span] = []

    async def program() -> None:
        with tracing() as root:
            spans.append(root)
            await model(Request.of("Q?"))

    with pytest.raises(AuthenticationFailed):
        run(program())
    trace = Trace.of(spans[0])
    assert trace.error == trace.children[0].error == Failure("AuthenticationFailed", "lab: wrong key")
    assert trace.failed
    assert not trace.cancelled


def test_a_call_nobody_waited_for_ends_with_its_program() -> None:
    root = Span("program", "program")
    with root.timed():
        child = root.child("lab/m", "call", Request.of("Q?"))
        child.start = root.start
    assert Trace.of(root).children[0].end == Trace.of(root).end


def test_a_cancelled_call_is_not_what_was_waited_for() -> None:
    root = Span("program", "program")
    for error, end in ((None, 2.0), (asyncio.CancelledError(), 2.1)):
        call = root.child("lab/m", "call", Request.of("Q?"))
        call.start, call.end, call.error = 1.0, end, error
    root.start, root.end = 1.0, 2.2
    assert root.critical_path() == [root.children[0]]
    assert [call.end for call in Trace.of(root).critical_path()] == [1.0]


def test_log_probabilities_are_left_out() -> None:
    root = Span("m", "call", Request.of("Q?"))
    with root.timed():
        root.completion = Completion("x", logprobs=(TokenLogprob("x", -0.1),))
    assert Trace.of(root).completion == Completion("x")


class Opaque:
    def __repr__(self) -> str:
        return "<opaque>"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"a": (1, 2.5, None, True, "x")}, {"a": [1, 2.5, None, True, "x"]}),
        (Opaque(), "<opaque>"),
        ({1: Opaque()}, {"1": "<opaque>"}),
        (math.nan, "nan"),
        (1 << 80, str(1 << 80)),
        (Completion("the text"), "the text"),
        (Request.of("the question"), "the question"),
    ],
)
def test_any_argument_or_result_becomes_json(value: object, kept: object) -> None:
    assert plain(value) == kept
    assert msgspec.json.decode(msgspec.json.encode(plain(value))) == kept


def test_a_value_that_holds_itself_ends() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert "..." in str(plain(loop))


def test_no_key_stands_in_a_trace() -> None:
    canary = "sk-canary-0123456789"
    model = shoal.open_model("openai/gpt-x", base_url="http://127.0.0.1:9", api_key=canary)
    root = Span("program", "program")
    with root.timed():
        root.arguments = {"model": model, "on": apply(self_consistency, model, n=3)}
        root.child("openai/gpt-x", "call", Request.of("Q?"))
    assert canary not in encode(Trace.of(root)).decode()
    assert canary not in shoal.trace_html(root)


def test_a_failed_call_of_a_server_shows_no_key() -> None:
    canary = "sk-canary-0123456789"
    retry = RetryPolicy(base=0.0, deadline=1.0)
    model = shoal.open_model("openai/gpt-x", base_url="http://127.0.0.1:9/v1", api_key=canary, retry=retry, cache=False)
    spans: list[Span] = []

    async def program() -> None:
        with tracing() as root:
            spans.append(root)
            await model(Request.of("Q?"))

    with pytest.raises(shoal.ShoalError):
        shoal.run(program())
    assert spans[0].calls()[0].error is not None
    assert canary not in encode(Trace.of(spans[0])).decode()


def test_a_builtin_that_is_its_one_call_is_shown_as_that() -> None:
    @shoal.program
    async def steps() -> list[str]:
        text = await llm.generate_text("q", max_tokens=3)
        return [text, *await shoal.parallel(llm.generate_texts("r", 2), llm.select("s", ["a", "b"], method="asked"))]

    model, _ = scripted(lambda request: "a" if "exactly one of" in request.text else "text")
    _, root = shoal.run(steps(), model=model, trace=True)
    (program,) = Trace.of(root).children
    one, several = program.children
    assert (one.name, one.kind, one.completion and one.completion.text) == ("generate_text · scripted", "call", "text")
    assert (several.kind, several.result) == ("parallel", None)
    texts, chosen = several.children
    assert (texts.name, texts.result, len(texts.children)) == ("generate_texts", ["text", "text"], 2)
    assert chosen.name == "select · scripted"
