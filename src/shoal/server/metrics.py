"""GET /metrics, in the form Prometheus reads. No label holds what a client chose, or whose key it was."""

import collections
from collections.abc import Callable, Iterable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric

from shoal.backends import BaseModel
from shoal.runtime.admission import Admission
from shoal.runtime.scheduler import Scheduler
from shoal.server.records import Record

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """The counters of one application, in a registry of its own. `bases` lists the models whose queues are told."""

    def __init__(self, bases: Callable[[], Iterable[BaseModel]]) -> None:
        self.registry = CollectorRegistry()
        new = self.registry
        self._requests = Counter(
            "shoal_requests",
            "Requests, by what they asked for and how they ended.",
            ("endpoint", "status"),
            registry=new,
        )
        self._seconds = Histogram(
            "shoal_request_seconds", "Seconds from a request to its end.", ("endpoint",), buckets=_SECONDS, registry=new
        )
        self._in_flight = Gauge("shoal_requests_in_flight", "Requests under way.", registry=new)
        self._failures = Counter(
            "shoal_failures", "Requests that failed, by what the client was told.", ("error",), registry=new
        )
        labels = ("model", "technique")
        self._tokens = Counter("shoal_tokens", "Tokens that were paid for.", (*labels, "direction"), registry=new)
        self._calls = Counter("shoal_model_calls", "Calls of a model that were paid for.", labels, registry=new)
        self._cached = Counter("shoal_cached_calls", "Calls of a model that cost nothing.", labels, registry=new)
        self._under_way = 0
        self._in_flight.set_function(lambda: self._under_way)
        # Looking up a label's counter costs more than counting, so those in use are at hand.
        self._of_endpoint = cache(lambda endpoint, status: self._requests.labels(endpoint, str(status)))
        self._seconds_of = cache(self._seconds.labels)
        self._of_model = cache(self._for_model)
        self.registry.register(_Queues(bases))

    def _for_model(self, *of: str) -> tuple[Counter, Counter, Counter, Counter]:
        tokens = self._tokens
        return tokens.labels(*of, "in"), tokens.labels(*of, "out"), self._calls.labels(*of), self._cached.labels(*of)

    def begun(self) -> None:
        self._under_way += 1

    def ended(self, record: Record, endpoint: str) -> None:
        """A request is over. `endpoint` is a route of the server's, not the path that was asked for."""
        self._under_way -= 1
        self._of_endpoint(endpoint, record.status).inc()
        self._seconds_of(endpoint).observe(record.seconds)
        if record.error:
            self._failures.labels(record.error).inc()
        usage = record.usage
        if usage.calls or usage.cached_calls or usage.total_tokens:
            counters = self._of_model(record.base or "unknown", _technique(record.slugs))
            spent = (usage.prompt_tokens, usage.completion_tokens, usage.calls, usage.cached_calls)
            for counter, amount in zip(counters, spent, strict=True):
                if amount:
                    counter.inc(amount)

    def told(self) -> bytes:
        return generate_latest(self.registry)


def _technique(slugs: tuple[str, ...]) -> str:
    """One of few words, however a client puts techniques together."""
    return slugs[0] if len(slugs) == 1 else "several" if slugs else "none"


class _Queues:
    """What the models' schedulers count by themselves, read when it is asked for."""

    def __init__(self, bases: Callable[[], Iterable[BaseModel]]) -> None:
        self._bases = bases

    def collect(self) -> Iterator[Metric]:
        sent = CounterMetricFamily("shoal_upstream_requests", "Requests sent to a model's server.", labels=["model"])
        errors = CounterMetricFamily(
            "shoal_upstream_errors", "Failures of a model's server, retried ones too.", labels=["model", "error"]
        )
        in_flight = GaugeMetricFamily(
            "shoal_upstream_in_flight", "Requests a model's server is working on.", labels=["model"]
        )
        waiting = GaugeMetricFamily("shoal_upstream_waiting", "Draws that wait for their turn.", labels=["model"])
        for base in self._bases():
            admissions = _admissions(base)
            sent.add_metric([base.name], sum(admission.sent for admission in admissions))
            in_flight.add_metric([base.name], sum(admission.in_flight for admission in admissions))
            waiting.add_metric([base.name], base.scheduler.waiting + sum(each.waiting for each in admissions))
            failures = sum((admission.errors for admission in admissions), collections.Counter[str]())
            for error, times in failures.items():
                errors.add_metric([base.name, error], times)
        yield from (sent, errors, in_flight, waiting)


def _admissions(base: BaseModel) -> list[Admission]:
    """What lets requests in to the servers of a model: one, or those of a router's members."""
    scheduler = base.scheduler
    if isinstance(scheduler, Scheduler):
        return [scheduler.admission]
    return [member.admission for member in scheduler.members]
