"""llama.cpp on a real GGUF file keeps the contract of every engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.backends.contract import EngineContract, begun, of
from tests.backends.tools_contract import asked
from tests.scripting import run

from shoal.backends import BaseModel
from shoal.backends.llama import LlamaBackend
from shoal.backends.weights import embedded_weights
from shoal.errors import BadRequest, Unsupported, UsageError
from shoal.techniques.opening import open_model


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaBackend]:
    backend = LlamaBackend(embedded_weights(), slots=4)
    yield backend
    run(backend.aclose())


class TestLlama(EngineContract):
    @pytest.fixture
    def backend(self, engine: LlamaBackend) -> LlamaBackend:
        return engine

    def test_alternatives(self, model: BaseModel) -> None:
        completion = run(model(of("Hi", max_tokens=2, logprobs=True, top_logprobs=3)))
        assert completion.logprobs is not None
        assert [len(token.top) for token in completion.logprobs] == [3, 3]

    def test_what_llama_cpp_refuses_is_a_bad_request(self, model: BaseModel) -> None:
        for wrong, why in (
            (begun(begun(of("x"), "a"), "b"), "2 or more assistant messages"),
            (begun(of("x", json_schema={"type": "object"}), "{"), "continue a message under a json_schema"),
            (of("x", json_schema={"$ref": "#/$defs/No"}), "cannot resolve"),
            (of("x", json_schema={"type": "string", "pattern": "ab"}), "pattern without"),
            (of("x", choices=["🐟"], logprobs=True), "ends within a character"),
        ):
            with pytest.raises(BadRequest, match=why):
                run(model(wrong))

    def test_tools_that_the_template_does_not_show_are_refused(self, model: BaseModel) -> None:
        with pytest.raises(BadRequest, match="shows it no tools"):
            run(model(asked("Weather in Lyon?")))
        assert run(model(asked("Weather in Lyon?", choice="none", max_tokens=2))).text

    def test_a_regex_is_refused_before_the_call(self, model: BaseModel) -> None:
        with pytest.raises(Unsupported, match="cannot do a regex"):
            run(model(of("x", regex="a+")))


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    with pytest.raises(UsageError, match=r"x\.gguf: not a GGUF file"):
        open_model(f"gguf/{tmp_path / 'x.gguf'}", cache=None)
