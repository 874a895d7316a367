"""How alike texts are: three sources of vectors, and what is made of them."""

import asyncio
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.backends.faulty_server import faulty_server
from tests.scripting import run

from shoal.backends import BaseModel
from shoal.backends.openai import OpenAIBackend
from shoal.evolution import embedding
from shoal.evolution.embedding import cosine, diversity, embedder, lexical, remembered


def test_cosine() -> None:
    assert cosine([1, 0], [2, 0]) == 1.0
    assert cosine([1, 0], [0, 3]) == 0.0
    assert cosine([1, 0], [-1, 0]) == -1.0
    assert cosine([0, 0], [1, 0]) == 0.0
    assert cosine([1, 0, 0, 0, 0], [19, 6, 1, 1, 1]) == 0.95


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 1.0]}

    async def fixed(texts: Sequence[str]) -> list[list[float]]:
        return [vectors[text] for text in texts]

    assert run(diversity([], fixed)) == 0.0
    assert run(diversity(["a"], fixed)) == 0.0
    assert run(diversity(["a", "a"], fixed)) == 0.0
    assert run(diversity(["a", "b"], fixed)) == 1.0
    assert run(diversity(["a", "b", "c"], fixed)) == pytest.approx((1 + 2 * (1 - 0.5**0.5)) / 3)


def test_letters_tell_apart_what_is_not_alike() -> None:
    same, close, far, empty = run(
        lexical(["Solve the problem step by step.", "Solve  the problem, step by STEP!", "Write a poem.", ""])
    )
    assert cosine(same, close) > 0.8
    assert cosine(same, far) < 0.3
    assert cosine(same, same) == pytest.approx(1.0)
    assert cosine(same, empty) < 0.1
    assert len(same) == len(empty)


def test_a_text_is_embedded_once() -> None:
    asked: list[list[str]] = []

    async def counted(texts: Sequence[str]) -> list[list[float]]:
        asked.append(list(texts))
        await asyncio.sleep(0)
        return [[float(len(text))] for text in texts]

    embed = remembered(counted)

    async def main() -> None:
        first, second = await asyncio.gather(embed(["a", "bb", "a"]), embed(["bb", "ccc"]))
        assert first == [[1.0], [2.0], [1.0]]
        assert second == [[2.0], [3.0]]
        assert await embed([]) == []

    run(main())
    assert asked == [["a", "bb"], ["ccc"]]
    run(main())  # in another event loop
    assert len(asked) == 2


def test_a_source_serves_one_event_loop_after_another() -> None:
    async def slow(texts: Sequence[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return [[float(len(text))] for text in texts]

    embed = remembered(slow)

    async def main(*texts: str) -> None:
        await asyncio.gather(*(embed([text]) for text in texts))

    run(main("a", "b", "c"))
    run(main("d", "e", "f"))


def test_no_more_vectors_are_kept_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_REMEMBERED", 2)

    async def lengths(texts: Sequence[str]) -> list[list[float]]:
        return [[float(len(text))] for text in texts]

    async def main() -> None:
        embed = remembered(lengths)
        assert await embed(["a", "bb", "ccc"]) == [[1.0], [2.0], [3.0]]
        assert await embed(["a", "ccc", "dddd"]) == [[1.0], [3.0], [4.0]]

    run(main())


def test_without_the_extra_letters_are_compared_and_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "find_spec", lambda _: None)
    with pytest.warns(UserWarning, match=r"pip install 'shoal\[evolution\]'") as said:
        embed = embedder()
    assert len(said) == 1
    assert embed is lexical


OFFLINE = """
import asyncio, json, logging, socket, sys
def refuse(*_): raise SystemExit("asked the network")
socket.socket.connect = socket.getaddrinfo = refuse
from shoal.evolution.embedding import embedder
embed = embedder()
assert "wordllama" not in sys.modules  # not before it is needed
texts = ["Solve the maths problem.", "Work out the arithmetic question.", "Write a poem on spring.", "", "\\u200b"]
vectors = asyncio.run(embed(texts))
root = logging.getLogger()
print(json.dumps({"vectors": vectors, "level": root.level, "handlers": len(root.handlers)}))
"""


@pytest.mark.skipif(importlib.util.find_spec("wordllama") is None, reason="needs shoal[evolution]")
def test_meaning_is_compared_without_network(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", OFFLINE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    maths, arithmetic, poem, *_ = told["vectors"]
    assert cosine(maths, arithmetic) > cosine(maths, poem) + 0.1
    assert all(value == value for vector in told["vectors"] for value in vector)  # no NaN
    assert (told["level"], told["handlers"]) == (logging.WARNING, 0)
    assert list(tmp_path.iterdir()) == []  # nothing was written at home


def test_a_model_with_embeddings_may_give_the_vectors() -> None:
    async def main() -> None:
        async with faulty_server() as server:
            model = BaseModel(OpenAIBackend("m", base_url=server.base_url))
            embed = embedder(model)
            assert await embed(["one", "three", "one"]) == [[3.0, 0.5], [5.0, 0.5], [3.0, 0.5]]
            assert await embed(["three"]) == [[5.0, 0.5]]
            assert [seen.body["input"] for seen in server.requests] == [["one", "three"]]
            await model.aclose()

    run(main())
