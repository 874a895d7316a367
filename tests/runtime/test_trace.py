import gc
import weakref

from tests.scripting import in_turn, run, scripted

from shoal.runtime.model import apply
from shoal.runtime.trace import Span, tracing
from shoal.runtime.types import Request
from shoal.techniques.self_consistency import self_consistency


def test_a_watcher_is_told_of_each_span_as_it_starts_and_as_it_ends() -> None:
    model, _ = scripted(in_turn("The answer is 4."), waves=True)
    told: list[tuple[str, bool, bool]] = []

    def watch(span: Span) -> None:
        told.append((span.kind, span.end == 0.0, span.completion is None))

    async def main() -> None:
        with tracing(watch=watch):
            await apply(self_consistency, model, n=2)(Request.of("2 + 2?"))

    run(main())
    started = [("program", True, True), ("technique", True, True), ("call", True, True), ("call", True, True)]
    ended = [("call", False, False), ("call", False, False), ("technique", False, False), ("program", False, True)]
    assert told == started + ended


def test_a_tree_that_its_watcher_holds_goes_without_the_garbage_collector() -> None:
    class Watcher:
        root: Span

        def watch(self, span: Span) -> None:
            pass

    watcher = Watcher()
    with tracing(watch=watcher.watch) as watcher.root, watcher.root.child("lab/m", "call").timed():
        pass
    gone = weakref.ref(watcher)
    collecting = gc.isenabled()
    gc.disable()
    try:
        del watcher
        assert gone() is None
    finally:
        if collecting:
            gc.enable()
