"""A run against a server that misbehaves: each fault ends in the right retry or one typed error of that row alone."""

import asyncio
from pathlib import Path

from tests.backends.faulty_server import faulty_server

import shoal
from shoal.runtime.retry import RetryPolicy
from shoal.techniques.opening import open_model

KEY = "sk-canary-0987654321"

# Faults that pass: the next request of the same row is answered well.
HEALING = [
    "close-at-once",
    "reset-before-headers",
    "reset-in-headers",
    "reset-in-body",
    "close-in-headers",
    "content-length-too-long",
    "chunked-unterminated",
    "http10-cut",
    "not-http",
    "endless-headers",
    "empty",
    "html",
    "html-as-json",
    "truncated-json",
    "nan",
    "invalid-utf8",
    "lone-surrogate",
    "deep",
    "gzip-bomb",
    "gzip-cut",
    "gzip-garbage",
    "brotli",
    "error-body",
    "error-body-429",
    "empty-choices",
    "null-choices",
    "no-choices",
    "too-many-choices",
    "wrong-index",
    "negative-index",
    "no-finish-reason",
    "null-content",
    "429",
    "429-retry-after-0",
    "429-retry-after-ms",
    "408",
    "409",
    "500",
    "502",
    "503",
    "504",
    "529",
]
# Faults that stay, and what the row's record says of them.
LASTING = {
    "400": "BadRequest",
    "401": "AuthenticationFailed",
    "403": "AuthenticationFailed",
    "404": "BadRequest",
    "413": "BadRequest",
    "422": "BadRequest",
    "quota": "QuotaExceeded",
    "context": "ContextLengthExceeded",
    "redirect": "BadRequest",
    "429-final": "RateLimited",
    "html": "MalformedResponse",
    "truncated-json": "MalformedResponse",
    "error-body": "MalformedResponse",
    "stall-before-headers": "DeadlineExceeded",
    "stall-in-body": "DeadlineExceeded",
    "drip": "DeadlineExceeded",
}


def test_every_fault_is_its_own_rows_alone(tmp_path: Path) -> None:
    prompts = []
    for i, fault in enumerate(HEALING):
        prompts += [f"[[{fault}*1]] heals {i}", f"fine {i}"]
    prompts += [f"[[{fault}]] stays" for fault in LASTING]

    async def main() -> list[shoal.Record]:
        async with faulty_server() as server:
            model = open_model(
                "openai/m",
                base_url=server.base_url,
                api_key=KEY,
                cache=tmp_path / "cache",
                retry=RetryPolicy(base=0.001, cap=0.001, deadline=1.0),
            )
            try:
                return await shoal.amap(model, prompts, run_dir=tmp_path / "run")
            finally:
                for base in shoal.techniques.opening.bases(model):
                    await base.aclose()

    records = asyncio.run(main())
    whole, broken = records[: 2 * len(HEALING)], records[2 * len(HEALING) :]
    assert [(r.input["prompt"], r.error) for r in whole if r.error] == []
    assert {r.output for r in whole} == {"answer 0.0"}
    assert {r.usage.calls for r in whole} == {1}
    assert {r.input["prompt"]: r.error and r.error.type for r in broken} == {
        f"[[{fault}]] stays": kind for fault, kind in LASTING.items()
    }
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"answer 0.0" in kept
    assert KEY.encode() not in kept
    assert KEY not in repr(records)


def test_an_incomplete_reply_is_neither_cached_nor_journalled(tmp_path: Path) -> None:
    async def main() -> None:
        async with faulty_server() as server:
            model = open_model(
                "openai/m", base_url=server.base_url, cache=tmp_path / "cache", retry=RetryPolicy(base=0.0, attempts=1)
            )
            for _ in range(2):
                (record,) = await shoal.amap(model, ["[[content-length-too-long]]"], run_dir=tmp_path / "run")
                assert record.error is not None
            assert len(server.requests) == 2
            (base,) = shoal.techniques.opening.bases(model)
            assert base.cache is not None
            assert base.cache.counts() == (0, 0)
            await base.aclose()

    asyncio.run(main())


def test_a_server_that_gives_one_draw_a_request_is_asked_for_the_others() -> None:
    async def main() -> None:
        async with faulty_server() as server:
            model = open_model("openai/m", base_url=server.base_url, cache=None)
            (base,) = shoal.techniques.opening.bases(model)
            drawn = await shoal.sample(base, shoal.Request.of("[[one-choice-less*1]] Q?"), 4)
            assert len(drawn) == 4
            assert len(server.requests) == 2
            await base.aclose()

    asyncio.run(main())
