"""The backend against a server that fails in every way it can: answers or typed errors, and nothing between."""

import asyncio
import resource
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import uvloop
from msgspec import structs
from tests.backends.faulty_server import FAULTS, FaultyServer, faulty_server
from tests.scripting import AT_ONCE

from shoal.backends import BaseModel
from shoal.backends.openai import OpenAIBackend
from shoal.errors import (
    AuthenticationFailed,
    BadRequest,
    ConnectionFailed,
    ContextLengthExceeded,
    DeadlineExceeded,
    MalformedResponse,
    ModelError,
    QuotaExceeded,
    RateLimited,
    ServerError,
    UsageError,
)
from shoal.runtime.backend import Draws, Outcome
from shoal.runtime.model import sample
from shoal.runtime.types import Completion, Delta, Request, Usage, total

KEY = "sk-canary-1234567890"
RUNNERS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


def with_backend(
    use: Callable[[FaultyServer, OpenAIBackend], Awaitable[Any]],
    *,
    run: Callable[[Any], Any] = uvloop.run,
    **options: Any,
) -> Any:
    async def main() -> Any:
        async with faulty_server() as server:
            backend = OpenAIBackend("m", base_url=server.base_url, api_key=KEY, endpoint="here", **options)
            try:
                return await use(server, backend)
            finally:
                await backend.aclose()

    return run(main())


def outcomes(*batch: Draws, **options: Any) -> list[Outcome]:
    return with_backend(lambda _, backend: backend.generate(batch), **options)  # type: ignore[no-any-return]


def outcome_of(fault: str, n: int = 1, **options: Any) -> Outcome:
    return outcomes(Draws(Request.of(f"[[{fault}]]"), n), **options)[0]


def texts(outcome: Outcome) -> list[str]:
    assert isinstance(outcome, list), outcome
    return [completion.text for completion in outcome]


def streamed(request: Request, *, run: Callable[[Any], Any] = uvloop.run, **options: Any) -> list[Delta | Completion]:
    async def use(_: FaultyServer, backend: OpenAIBackend) -> list[Delta | Completion]:
        return [piece async for piece in backend.stream(request)]

    return with_backend(use, run=run, **options)  # type: ignore[no-any-return]


# Answers


@RUNNERS
def test_draws_of_a_conversation(run: Callable[[Any], Any]) -> None:
    async def use(server: FaultyServer, backend: OpenAIBackend) -> None:
        (outcome,) = await backend.generate([Draws(Request.of("Hi", temperature=0.5), 3)])
        assert texts(outcome) == ["answer 0.0", "answer 0.1", "answer 0.2"]
        assert isinstance(outcome, list)
        assert total(c.usage for c in outcome) == Usage(7, 10, 3)
        assert {c.model for c in outcome} == {"served"}
        (seen,) = server.requests
        assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
        assert seen.headers["authorization"] == f"Bearer {KEY}"
        assert seen.headers["content-type"] == "application/json"
        assert seen.body == {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "n": 3}

    with_backend(use, run=run)


def test_prompts_go_together_and_what_cannot_goes_beside() -> None:
    async def use(server: FaultyServer, backend: OpenAIBackend) -> None:
        assert backend.capabilities.max_batch == 4
        prompts = [Draws(Request(prompt=text)) for text in "abc"]
        batch = [*prompts, Draws(Request(prompt="d"), 2), Draws(Request.of("Hi")), Draws(Request.of("Ho"))]
        answers = [texts(outcome) for outcome in await backend.generate(batch)]
        assert answers[:3] == [["answer 0.0"], ["answer 1.0"], ["answer 2.0"]]
        assert answers[3:] == [["answer 0.0", "answer 0.1"], ["answer 0.0"], ["answer 0.0"]]
        assert sorted(str(seen.body.get("prompt")) for seen in server.requests) == [
            "None",
            "None",
            "['a', 'b', 'c']",
            "d",
        ]

    with_backend(use, queries_per_batch=4)


def test_seeded_prompts_each_have_the_seed_of_their_draw() -> None:
    async def use(server: FaultyServer, backend: OpenAIBackend) -> None:
        request = Request(prompt="a", params=Request.of("", seed=5).params)
        await backend.generate([Draws(request.draw(i)) for i in range(3)])
        assert len({seen.body["seed"] for seen in server.requests}) == 3

    with_backend(use, queries_per_batch=8)


@RUNNERS
@pytest.mark.parametrize("request_", [Request.of("Hi"), Request(prompt="Hi")], ids=["chat", "text"])
@pytest.mark.parametrize("fault", ["", "sse-drips", "sse-crlf", "sse-reset-after-done"])
def test_a_stream(fault: str, request_: Request, run: Callable[[Any], Any]) -> None:
    request = Request.of(f"[[{fault}]]") if request_.messages else Request(prompt=f"[[{fault}]]")
    *deltas, completion = streamed(request if fault else request_, run=run)
    assert deltas == [Delta("One "), Delta("fish, "), Delta("two "), Delta("fish.")]
    assert completion == Completion("One fish, two fish.", "stop", Usage(7, 4, 1), "served")


# Faults

MALFORMED = [
    *("empty", "html", "html-as-json", "text-plain", "truncated-json", "nan", "invalid-utf8", "lone-surrogate", "deep"),
    *("deep-ignored", "error-body", "empty-choices", "null-choices", "no-choices", "too-many-choices", "wrong-index"),
    *(
        "negative-index",
        "no-finish-reason",
        "null-content",
        "http10-cut",
        "not-http",
        "gzip-bomb",
        "gzip-cut",
        "brotli",
    ),
]
BROKEN = [
    *("close-at-once", "reset-before-headers", "reset-in-headers", "reset-in-body", "close-in-headers"),
    *("content-length-too-long", "chunked-unterminated"),
]
MEANING: dict[str, tuple[type[ModelError], bool]] = {
    **dict.fromkeys(MALFORMED, (MalformedResponse, True)),
    **dict.fromkeys(BROKEN, (ConnectionFailed, True)),
    **dict.fromkeys(("400", "404", "413", "422", "redirect"), (BadRequest, False)),
    **dict.fromkeys(("401", "403"), (AuthenticationFailed, False)),
    **dict.fromkeys(("408", "409", "500", "502", "503", "504", "529"), (ServerError, True)),
    **dict.fromkeys(("429", "429-retry-after", "429-retry-after-ms", "error-body-429"), (RateLimited, True)),
    **dict.fromkeys(("402", "quota"), (QuotaExceeded, False)),
    "429-final": (RateLimited, False),
    "context": (ContextLengthExceeded, False),
}


@pytest.mark.parametrize("fault", MEANING)
def test_a_fault_is_a_typed_error(fault: str) -> None:
    error = outcome_of(fault)
    assert isinstance(error, ModelError)
    assert (type(error), error.retryable) == MEANING[fault]
    assert str(error).startswith("here: ")


@pytest.mark.parametrize("fault", [fault for fault, (_, retryable) in MEANING.items() if retryable])
def test_a_fault_that_passes_is_tried_again(fault: str) -> None:
    async def use(_: FaultyServer, backend: OpenAIBackend) -> Completion:
        policy = structs.replace(AT_ONCE, max_retry_after=0.0) if fault == "429-retry-after" else AT_ONCE
        return await BaseModel(backend, retry=policy)(Request.of(f"[[{fault}*1]]"))

    if fault == "429-retry-after":
        with pytest.raises(RateLimited):
            with_backend(use)
    else:
        assert with_backend(use).text == "answer 0.0"


@pytest.mark.parametrize("fault", ["gzip", "interim", "error-body-null", "reset-after-body", "two-replies"])
def test_what_is_odd_and_yet_an_answer(fault: str) -> None:
    assert texts(outcome_of(fault)) == ["answer 0.0"]


@pytest.mark.parametrize("fault", ["usage-negative", "usage-huge", "usage-missing"])
def test_usage_that_cannot_be_is_estimated(fault: str) -> None:
    outcome = outcome_of(fault)
    assert isinstance(outcome, list)
    assert outcome[0].usage == Usage(-(-len(f"[[{fault}]]") // 4), 3, 1, estimated=True)


@pytest.mark.parametrize("fault", ["too-many-choices", "duplicate-index"])
def test_choices_that_contradict_each_other_are_no_answer(fault: str) -> None:
    assert isinstance(outcome_of(fault, n=2), MalformedResponse)


def test_fewer_draws_than_asked_are_given_and_the_scheduler_asks_for_the_rest() -> None:
    assert texts(outcome_of("one-choice-less", n=3)) == ["answer 0.0", "answer 0.1"]

    async def use(_: FaultyServer, backend: OpenAIBackend) -> Sequence[Completion]:
        return await sample(BaseModel(backend, retry=AT_ONCE), Request.of("[[one-choice-less*1]]"), 4)

    assert len(with_backend(use)) == 4


def test_a_prompt_list_with_a_choice_missing_is_no_answer_to_any() -> None:
    batch = [Draws(Request(prompt="[[one-choice-less]]")), Draws(Request(prompt="b"))]
    found = outcomes(*batch, queries_per_batch=2)
    assert [type(outcome) for outcome in found] == [MalformedResponse, MalformedResponse]
    assert found[0] is not found[1]


@pytest.mark.parametrize("fault", ["stall-before-headers", "stall-after-headers", "drip"])
def test_a_call_ends_with_its_timeout(fault: str) -> None:
    assert isinstance(outcome_of(fault, timeout=0.15), DeadlineExceeded)


@RUNNERS
def test_a_caller_that_goes_away_is_seen_by_the_server(run: Callable[[Any], Any]) -> None:
    async def use(server: FaultyServer, backend: OpenAIBackend) -> None:
        model = BaseModel(backend)
        task = asyncio.create_task(model(Request.of("[[stall-before-headers]]")))
        await server.got(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await server.hung_up()

    with_backend(use, run=run)


STREAM_FAULTS: dict[str, type[ModelError]] = {
    "sse-cut": ConnectionFailed,
    "sse-cut-in-event": ConnectionFailed,
    "sse-ends-early": MalformedResponse,
    "sse-ends-in-event": MalformedResponse,
    "sse-no-done": MalformedResponse,
    "sse-no-finish": MalformedResponse,
    "sse-error": ServerError,
    "sse-garbage": MalformedResponse,
    "sse-invalid-utf8": MalformedResponse,
    "sse-wrong-index": MalformedResponse,
    "sse-stall": DeadlineExceeded,
    "html": MalformedResponse,
    "429": RateLimited,
    "500": ServerError,
    "401": AuthenticationFailed,
    "reset-before-headers": ConnectionFailed,
    "stall-before-headers": DeadlineExceeded,
    "error-body": MalformedResponse,
    "error-body-429": RateLimited,
}


def test_a_server_that_does_not_stream_gives_the_whole_answer() -> None:
    (completion,) = streamed(Request.of("[[sse-json]]"))
    assert isinstance(completion, Completion)
    assert completion.text
    assert completion.finish_reason == "stop"
    assert completion.usage.calls == 1


@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_a_stream_that_is_not_whole_is_a_typed_error(fault: str) -> None:
    with pytest.raises(STREAM_FAULTS[fault]) as caught:
        streamed(Request.of(f"[[{fault}]]"), timeout=0.3)
    assert type(caught.value) is STREAM_FAULTS[fault]


@RUNNERS
def test_a_reader_that_goes_away_is_seen_by_the_server(run: Callable[[Any], Any]) -> None:
    async def use(server: FaultyServer, backend: OpenAIBackend) -> None:
        pieces = backend.stream(Request.of("[[sse-stall]]"))
        assert await anext(pieces) == Delta("One ")
        await pieces.aclose()
        await server.hung_up()

    with_backend(use, run=run)


def test_the_key_is_in_no_error_and_no_repr() -> None:
    said = []

    async def use(_: FaultyServer, backend: OpenAIBackend) -> None:
        said.append(repr(backend) + repr(vars(backend)) + backend.identity + backend.name)
        for fault in FAULTS:
            (outcome,) = await backend.generate([Draws(Request.of(f"[[{fault}]]"))])
            if isinstance(outcome, ModelError):
                said.extend(traceback.format_exception(outcome))

    with_backend(use, timeout=0.1)
    assert KEY not in "".join(said)


def test_text_that_no_request_can_hold() -> None:
    (error,) = outcomes(Draws(Request.of("\ud800")))
    assert isinstance(error, BadRequest)


# Options


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "localhost:8000/v1",
        "ftp://host/v1",
        "http://",
        "http://user:s3cret@host/v1",
        "http://s3cret@host",
        "http://[::1/v1",
    ],
)
def test_a_base_url_must_be_http_and_hold_no_credentials(base_url: str) -> None:
    with pytest.raises(UsageError) as caught:
        OpenAIBackend("m", base_url=base_url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("base_url", "identity"),
    [
        ("http://Host:80/v1/", "openai|http://host/v1|m|all"),
        ("HTTPS://host:443/v1", "openai|https://host/v1|m|all"),
        ("http://[::1]:8000/v1", "openai|http://[::1]:8000/v1|m|all"),
        ("http://host/v1?api-version=2", "openai|http://host/v1|m|all"),
    ],
)
def test_one_server_has_one_identity(base_url: str, identity: str) -> None:
    assert OpenAIBackend("m", base_url=base_url, api_key=KEY).identity == identity


def test_a_query_in_base_url_goes_with_every_request() -> None:
    async def use(server: FaultyServer, _: OpenAIBackend) -> None:
        backend = OpenAIBackend("m", base_url=f"{server.base_url}/?api-version=2")
        await backend.generate([Draws(Request.of("Hi"))])
        await backend.aclose()
        assert server.requests[0].path == "/v1/chat/completions?api-version=2"
        assert "authorization" not in server.requests[0].headers

    with_backend(use)


def test_capabilities_follow_the_options() -> None:
    url = "http://host/v1"
    plain = OpenAIBackend("m", base_url=url).capabilities
    assert (plain.regex, plain.choices, plain.grammar) == (False, False, False)
    assert plain.max_n == 128
    assert plain.max_in_flight == min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64)
    vllm = OpenAIBackend("m", base_url=url, constraints="vllm", max_in_flight=7, api="chat").capabilities
    assert (vllm.regex, vllm.choices, vllm.grammar, vllm.max_in_flight, vllm.text) == (True, True, True, 7, False)
    llama = OpenAIBackend("m", base_url=url, constraints="llamacpp", api="text").capabilities
    assert (llama.regex, llama.choices, llama.grammar, llama.chat) == (False, True, True, False)
    for wrong in ({"api": "chta"}, {"constraints": "vlm"}, {"api_key": "two\nlines"}):
        with pytest.raises(UsageError):
            OpenAIBackend("m", base_url=url, **wrong)  # type: ignore[arg-type]
