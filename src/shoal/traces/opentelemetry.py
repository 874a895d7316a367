"""A finished trace as OpenTelemetry spans, by the semantic conventions for generative AI (`gen_ai.*`).

Needs `pip install 'shoal[otel]'`. Where the spans go is the tracer provider's: set one up as for any other program.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from shoal.errors import UsageError
from shoal.runtime.trace import Span
from shoal.runtime.types import Completion, Request
from shoal.traces import words
from shoal.traces.data import Trace

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer, TracerProvider

_PARAMETERS = ("temperature", "top_p", "top_k", "max_tokens", "seed", "presence_penalty", "frequency_penalty")
_encode = msgspec.json.Encoder(enc_hook=str).encode


def export(
    root: Span | Trace, tracer_provider: "TracerProvider | None" = None, *, content: bool = False, began: float = 0.0
) -> None:
    """Give a finished tree to OpenTelemetry, with the times at which it happened, under the span that is current.

    Prompts and outputs are left out unless `content` asks for them, as the conventions want it: they may be private.
    `began` (seconds since 1970) stands in where the tree does not know when it began.
    """
    try:
        from opentelemetry import trace as otel
    except ImportError:
        raise UsageError("OpenTelemetry is not installed; pip install 'shoal[otel]'") from None
    trace = Trace.of(root)
    zero = trace.began or began
    if not zero:
        raise UsageError(
            f"the trace {trace.name!r} does not know when it began; record it with tracing(), or give began="
        )
    tracer = otel.get_tracer("shoal", tracer_provider=tracer_provider)
    _export(trace, tracer, None, round(zero * 1e9), content=content)


def _export(span: Trace, tracer: "Tracer", parent: "Context | None", zero: int, *, content: bool) -> None:
    from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

    attributes = dict(_call(span) if span.kind == "call" else _workflow(span))
    if content:
        attributes |= _content(span)
    subject = attributes.get("gen_ai.request.model") or span.name
    started = tracer.start_span(
        f"{attributes['gen_ai.operation.name']} {subject}",
        context=parent,
        kind=SpanKind.CLIENT if span.kind == "call" else SpanKind.INTERNAL,
        attributes=attributes,
        start_time=zero + round(span.start * 1e9),
    )
    if span.error is not None:
        started.set_attribute("error.type", span.error.type)
        started.set_status(Status(StatusCode.ERROR, span.error.message))
    below = set_span_in_context(started, parent)
    for child in span.children:
        _export(child, tracer, below, zero, content=content)
    started.end(end_time=zero + round(span.end * 1e9))


def _workflow(span: Trace) -> Iterator[tuple[str, Any]]:
    """A program or technique: it coordinates calls."""
    yield "gen_ai.operation.name", "invoke_workflow"
    yield "gen_ai.workflow.name", span.name


def _call(span: Trace) -> Iterator[tuple[str, Any]]:
    provider, _, model = span.name.partition("/")
    request, completion = span.request or Request(), span.completion
    yield "gen_ai.operation.name", "text_completion" if request.prompt is not None else "chat"
    yield "gen_ai.provider.name", provider
    yield "gen_ai.request.model", model or provider
    for name in _PARAMETERS:
        value = getattr(request.params, name)
        if value is not None:
            yield f"gen_ai.request.{name}", value
    if request.params.stop:
        yield "gen_ai.request.stop_sequences", request.params.stop
    if request.params.json_schema is not None:
        yield "gen_ai.output.type", "json"
    yield "shoal.sample", request.sample
    if completion is not None:
        yield from _came(completion)
        yield "shoal.cached", span.cached


def _came(completion: Completion) -> Iterator[tuple[str, Any]]:
    if completion.model:
        yield "gen_ai.response.model", completion.model
    yield "gen_ai.response.finish_reasons", (completion.finish_reason,)
    yield "gen_ai.usage.input_tokens", completion.usage.prompt_tokens
    yield "gen_ai.usage.output_tokens", completion.usage.completion_tokens


def _content(span: Trace) -> dict[str, str]:
    """Messages in the conventions' form, as JSON."""
    content = {}
    if span.request is not None:
        said = words.messages(span.request)
        turns = [{"role": "user" if who == "prompt" else who, "parts": _parts(text)} for who, text in said]
        content["gen_ai.input.messages"] = _encode(turns).decode()
    if span.completion is not None:
        reason = span.completion.finish_reason
        turn = {"role": "assistant", "parts": _parts(words.answered(span) or ""), "finish_reason": reason}
        content["gen_ai.output.messages"] = _encode([turn]).decode()
    return content


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "content": text}]
