"""The public API in typed code: never run, only type-checked."""

from collections.abc import AsyncIterator

import shoal


async def longest(model: shoal.Model, request: shoal.Request, *, n: int = 3) -> shoal.Completion:
    answers: list[shoal.Completion] = await shoal.sample(model, request, n)
    return max(answers, key=lambda answer: len(answer.text))


async def echo(request: shoal.Request) -> shoal.Completion:
    return shoal.Completion(request.text, usage=shoal.Usage(calls=1))


base = shoal.open_model("local", cache=False, max_in_flight=8)
technique: shoal.Model = shoal.apply(longest, base, n=2)
function: shoal.Model = echo
nested: shoal.Model = shoal.apply(longest, technique)

request: shoal.Request = shoal.Request.of("Q", system="S", temperature=0.5, stop=["\n"])
again: shoal.Request = shoal.then(request, "A", "More?", max_tokens=10).draw(1)

completion: shoal.Completion = shoal.run(base("Q"))
text: str = completion.text
answer: str | None = completion.answer
tokens: int = completion.usage.total_tokens

records: list[shoal.Record] = shoal.map(technique, ["a", "b"], budget=shoal.Budget(calls=10), run_dir="runs/x")


async def program() -> AsyncIterator[str]:
    first, second = await shoal.gather(base("a"), base("b"))
    yield first.text + second.text
    async for piece in shoal.stream(base, request):
        if isinstance(piece, shoal.Delta):
            yield piece.text
    with shoal.tracing("mine") as trace:
        await nested(request)
    yield str(len(trace.critical_path()))
    page: str = shoal.trace_html(trace, title="mine")
    yield page
    last = await shoal.answer(function, request)
    yield last.text
