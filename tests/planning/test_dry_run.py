"""Stand-ins: nobody is asked, whatever asks; they fuse, wait and count as the models would."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.scripting import run, scripted

from shoal.backends import BaseModel
from shoal.errors import Unsupported
from shoal.planning import DryRun
from shoal.planning.dry_run import following
from shoal.planning.replies import brief, long
from shoal.prompting import llm
from shoal.runtime import registry
from shoal.runtime.cache import DrawCache
from shoal.runtime.limits import Limits
from shoal.runtime.model import sample
from shoal.runtime.trace import tracing
from shoal.runtime.types import Json, Request

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 4},
        "age": {"type": "integer", "minimum": 3},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
        "kind": {"enum": ["a", "b"]},
        "either": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "$defs": {"tag": {"const": "x"}},
}


def in_run(program: Any, **options: Any) -> tuple[Any, DryRun]:
    """What a program gives in a dry run, and the run."""
    dry = DryRun(options.pop("replies", brief), **options)

    async def main() -> Any:
        with dry.on():
            return await program()

    return run(main()), dry


def test_draws_of_a_question_leave_together_and_in_steps() -> None:
    model, backend = scripted(lambda r: "real", max_n=4)

    async def two_rounds() -> None:
        await sample(model, Request.of("Q?"), 10)
        await model(Request.of("And?"))

    _, dry = in_run(two_rounds)
    tally = dry.tallies["scripted"]
    assert (tally.calls, tally.wire_requests, tally.prompts, dry.clock.steps) == (11, 4, 4, 2)
    assert not backend.requests


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_requests_wait_for_room_as_they_would(at_once: int) -> None:
    _, backend = scripted(lambda r: "real")
    model = BaseModel(backend, limits=Limits(max_in_flight=at_once))

    async def ten() -> None:
        await sample(model, Request.of("Q?"), 10)

    assert in_run(ten)[1].clock.steps == -(-10 // at_once)
    assert in_run(ten, wide=True)[1].clock.steps == 1


def test_a_draw_asked_again_comes_for_nothing() -> None:
    model, _ = scripted(lambda r: "real")

    async def again() -> None:
        await asyncio.gather(model(Request.of("Q?")), model(Request.of("Q?")))
        await model(Request.of("Q?"))

    assert in_run(again)[1].tallies["scripted"].calls == 1


def test_kept_draws_are_answered_as_they_were(tmp_path: Path) -> None:
    _, backend = scripted(lambda r: "real")
    model = BaseModel(backend, cache=DrawCache(tmp_path / "draws.sqlite"))
    run(model(Request.of("Q?")))

    async def both() -> list[str]:
        with following() as followed:
            texts = [(await model(Request.of(text))).text for text in ("Q?", "Other?")]
        assert (followed.kept, followed.paid, followed.path) == ({"scripted": 1}, {"scripted": 1}, 1)
        return texts

    texts, dry = in_run(both)
    assert texts == ["real", brief(Request.of("Other?")).text]
    assert (dry.tallies["scripted"].kept, dry.tallies["scripted"].calls) == (1, 1)
    assert model.cache is not None
    assert model.cache.counts() == (1, 1)  # and nothing was put there


def test_nothing_of_a_dry_run_is_left_when_it_is_over() -> None:
    model, backend = scripted(lambda r: "real")

    async def main() -> str:
        with DryRun(brief).on():
            await model(Request.of("Q?"))
        return (await model(Request.of("Q?"))).text

    assert run(main()) == "real"
    assert len(backend.requests) == 1


def test_programs_that_count_embed_and_choose_go_on() -> None:
    model, backend = scripted(lambda r: "real")

    async def program() -> tuple[Any, ...]:
        with registry.using(model):
            return await llm.select("Colour?", ["red", "blue"]), await model.count_tokens("Twelve chars")

    (chosen, counted), _ = in_run(program)
    assert chosen in ("red", "blue")
    assert counted == 3
    assert not backend.requests

    async def embed() -> None:
        await model.embed(["a"])

    with pytest.raises(Unsupported, match="embeddings"):  # as the model itself would refuse
        in_run(embed)


@pytest.mark.parametrize("replies", [brief, long])
def test_replies_keep_the_form_that_is_asked_for(replies: Any) -> None:
    asked = Request.of("Q?", json_schema=SCHEMA)
    value = Json(replies(asked).text).value()
    assert value == {"name": "and" * 4, "age": 3, "tags": ["x"], "kind": "a", "either": True}
    chosen = replies(Request.of("Q?", choices=["red", "blue"], logprobs=True, top_logprobs=2))
    assert chosen.text in ("red", "blue")
    assert chosen.logprobs[0].top[0][0] == chosen.text


def test_long_replies_are_as_long_as_they_may_be_and_differ() -> None:
    texts = {long(Request.of("Q?", max_tokens=100).draw(i)).text for i in range(5)}
    assert len(texts) == 5
    assert all(len(text) == pytest.approx(400, abs=10) for text in texts)
    assert len(long(Request.of("Q?")).text) == pytest.approx(1024, abs=10)


def test_calls_show_in_a_trace() -> None:
    model, _ = scripted(lambda r: "real")

    async def traced() -> list[str]:
        with tracing() as root:
            await model(Request.of("Q?"))
        return [call.name for call in root.calls()]

    assert in_run(traced)[0] == ["scripted"]
