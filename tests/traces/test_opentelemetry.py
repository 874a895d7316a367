"""Traces as OpenTelemetry spans: names, attributes, parents and times by the conventions."""

import json
import sys

import pytest
from tests.scripting import run, scripted

from shoal.errors import ServerError, UsageError
from shoal.runtime.model import apply
from shoal.runtime.trace import Span, tracing
from shoal.runtime.types import Completion, Request, Usage
from shoal.techniques.self_consistency import self_consistency
from shoal.traces.data import Failure, Trace
from shoal.traces.opentelemetry import export

sdk = pytest.importorskip("opentelemetry.sdk.trace")
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402


class Collector:
    def __init__(self) -> None:
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))

    def spans(self) -> list[ReadableSpan]:
        return sorted(self.memory.get_finished_spans(), key=lambda span: (span.start_time or 0, -(span.end_time or 0)))


@pytest.fixture
def collector() -> Collector:
    return Collector()


def chat() -> Trace:
    request = Request.of("Why?", temperature=0.5, max_tokens=9, stop=["."], seed=3, json_schema={"type": "object"})
    completion = Completion("Because", "length", Usage(5, 7, calls=1), model="gpt-x-2026")
    return Trace("openai/gpt-x", "call", start=1.0, end=2.5, request=request, completion=completion)


def test_a_call_is_a_chat_span(collector: Collector) -> None:
    export(Trace("program", "program", end=3.0, children=(chat(),), began=1e9), collector.provider)
    root, call = collector.spans()
    assert (call.name, call.kind) == ("chat gpt-x", SpanKind.CLIENT)
    assert call.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-x",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stop_sequences": (".",),
        "gen_ai.output.type": "json",
        "gen_ai.response.model": "gpt-x-2026",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 7,
        "shoal.sample": (),
        "shoal.cached": False,
    }
    assert (call.start_time, call.end_time) == (1_000_000_001 * 10**9, 1_000_000_002_500_000_000)
    assert root.name == "invoke_workflow program"
    assert (root.start_time, root.end_time) == (10**18, 10**18 + 3 * 10**9)


def test_attribute_names_are_the_conventions(collector: Collector) -> None:
    names = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    known = {value for name, value in vars(names).items() if name.startswith("GEN_AI_") and isinstance(value, str)}
    export(Trace("program", "program", end=3.0, children=(chat(),), began=1e9), collector.provider, content=True)
    used = {name for span in collector.spans() for name in span.attributes or {} if name.startswith("gen_ai.")}
    assert used <= known


def test_a_live_tree_keeps_its_parents_and_times(collector: Collector) -> None:
    model, _ = scripted(lambda request: "The answer is 4.")

    async def program() -> Span:
        with tracing("program") as root:
            await apply(self_consistency, model, n=3)(Request.of("2 + 2?"))
        return root

    root = run(program())
    export(root, collector.provider)
    spans = {span.name: span for span in collector.spans()}
    whole, technique = spans["invoke_workflow program"], spans["invoke_workflow self_consistency(n=3)"]
    calls = [span for span in collector.spans() if span.name == "chat scripted"]
    assert len(calls) == 3
    assert whole.parent is None
    assert technique.parent is not None
    assert technique.parent.span_id == whole.context.span_id
    assert {call.parent.span_id for call in calls if call.parent} == {technique.context.span_id}
    assert whole.start_time == round(root.began * 1e9)
    assert (whole.end_time or 0) - (whole.start_time or 0) == pytest.approx(root.seconds * 1e9, abs=2e3)
    assert sorted(call.attributes["shoal.sample"] for call in calls if call.attributes) == [(0,), (1,), (2,)]


def test_content_is_given_only_where_asked_for(collector: Collector) -> None:
    trace = Trace("program", "program", end=3.0, children=(chat(),), began=1e9)
    export(trace, collector.provider)
    assert "Why?" not in str([dict(span.attributes or {}) for span in collector.spans()])
    collector.memory.clear()
    export(trace, collector.provider, content=True)
    attributes = collector.spans()[1].attributes or {}
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": "Why?"}]}
    ]
    assert json.loads(str(attributes["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Because"}], "finish_reason": "length"}
    ]


def test_an_error_is_the_spans_status(collector: Collector) -> None:
    error = Failure.of(ServerError("overloaded", endpoint="lab"))
    broken = Trace("lab/m", "call", end=1.0, request=Request(prompt="Once"), error=error, began=1e9)
    export(broken, collector.provider)
    (span,) = collector.spans()
    assert span.name == "text_completion m"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "lab: overloaded")
    assert (span.attributes or {})["error.type"] == "ServerError"


def test_a_tree_without_a_beginning_needs_one(collector: Collector) -> None:
    with pytest.raises(UsageError, match="when it began"):
        export(chat(), collector.provider)
    export(chat(), collector.provider, began=1e9)
    assert collector.spans()[0].start_time == 1_000_000_001 * 10**9


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(UsageError, match=r"pip install 'shoal\[otel\]'"):
        export(chat())
