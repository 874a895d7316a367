"""The public API in typed code: never run, only type-checked."""

from collections.abc import AsyncIterator

import shoal
from shoal import c, llm


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
scored: list[shoal.Record] = shoal.map(
    technique, [{"q": "?", "gold": 5}], score=shoal.open_scorer("number"), target="gold"
)
rated: list[shoal.Record] = shoal.map(
    technique, ["a"], score=lambda completion, row: float(completion.text == row["b"])
)

comparison: shoal.Comparison = shoal.compare(
    [{"prompt": "Q", "gold": "A"}], ["re_reading", longest], answer="gold", model=["local", base], curve=True
)
best: float = max(arm.value for arm in comparison.arms)

batch: shoal.Batch = shoal.complete(["a {x}"], [{"x": 1}], {"n": 2}, model={"local": 1, base: 2.5}, queries_per_batch=3)
total: int = shoal.chat("Q", model=[technique, "local"], zip_model_args=True).usage.total_tokens
written: int = shoal.write_records(batch.records, "r.csv") + shoal.write_fine_tuning(batch, "t.jsonl")


@shoal.program
async def count(text: str, *, times: int = 1) -> int:
    said: str = await llm.generate_text(text, temperature=0.5, stop=["x"])
    return len(said) * times


counted: shoal.Program[int] = count("a", times=2)
number: int = shoal.run(counted, model="local", timeout=3.0)
many: list[int] = shoal.run(shoal.repeat(counted, 3))
both: tuple[int, shoal.Span] = shoal.run(counted, trace=True)
rows: list[shoal.Record] = shoal.map(count, ["a", "b"], model=base, replay=True)
written_out: shoal.Rendered = shoal.run(shoal.JinjaPrompt("{{ x }}").render(x=1))
chained: shoal.Rendered = shoal.run("Q: " + c.generate_text(max_tokens=3) + c.store("a"))


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
