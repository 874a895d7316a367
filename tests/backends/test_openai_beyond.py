"""What servers do beside chat: embeddings, counted prompts, scored choices, begun replies."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import pytest
import uvloop
from tests.backends.contract import EngineContract, begun
from tests.backends.faulty_server import FaultyServer, faulty_server
from tests.scripting import AT_ONCE, run, scripted

from shoal.backends import BaseModel
from shoal.backends.llama import LlamaBackend
from shoal.backends.openai import OpenAIBackend
from shoal.backends.openai_embeddings import from_wire_embeddings
from shoal.backends.openai_errors import Server
from shoal.backends.weights import embedded_weights
from shoal.errors import AuthenticationFailed, BadRequest, MalformedResponse, ModelError, RateLimited, Unsupported
from shoal.runtime.types import Message, Request

of = Request.of


def asked(use: Callable[[BaseModel], Awaitable[Any]], **options: Any) -> tuple[Any, FaultyServer]:
    async def main() -> tuple[Any, FaultyServer]:
        async with faulty_server() as server:
            model = BaseModel(OpenAIBackend("m", base_url=server.base_url, **options), retry=AT_ONCE)
            try:
                return await use(model), server
            finally:
                await model.aclose()

    return uvloop.run(main())


def test_embeddings_come_in_the_order_of_their_texts() -> None:
    vectors, server = asked(lambda model: model.embed(["a", "bbb", "cc"]))
    assert vectors == [[1.0, 0.5], [3.0, 0.5], [2.0, 0.5]]
    (request,) = server.requests
    assert request.path == "/v1/embeddings"
    assert request.body == {"model": "m", "input": ["a", "bbb", "cc"], "encoding_format": "float"}


def test_many_texts_go_in_several_requests_and_none_in_none() -> None:
    vectors, server = asked(lambda model: model.embed(["x" * (i % 7) for i in range(2050)]))
    assert [vector[0] for vector in vectors] == [float(i % 7) for i in range(2050)]
    assert [len(request.body["input"]) for request in server.requests] == [2048, 2]
    vectors, server = asked(lambda model: model.embed([]))
    assert (vectors, server.requests) == ([], [])


def test_embeddings_are_asked_again_where_that_helps() -> None:
    vectors, server = asked(lambda model: model.embed(["[[429*2]]"]))
    assert (len(vectors), len(server.requests)) == (1, 3)
    with pytest.raises(RateLimited):
        asked(lambda model: model.embed(["[[429]]"]))
    for fault in ("truncated-json", "html", "no-choices", "error-body"):
        with pytest.raises(ModelError):
            asked(lambda model, fault=fault: model.embed([f"[[{fault}]]"]))


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 1, "embedding": [0.5]}],
        [{"index": 0, "embedding": []}],
        [{"index": 0, "embedding": ["x"]}],
        [{"index": 0, "embedding": [1], "object": "embedding"}] * 2,
        None,
    ],
)
def test_embeddings_that_are_not_whole_are_no_answer(data: Any) -> None:
    with pytest.raises(MalformedResponse):
        from_wire_embeddings(msgspec.json.encode({"data": data}), 1, Server("here"))


def test_vllm_counts_a_prompt_beside_its_api() -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Well"))
    count, server = asked(lambda model: model.count_tokens(Request(turns)), constraints="vllm")
    assert count == 7
    (request,) = server.requests
    assert request.path == "/tokenize"
    assert (request.body["add_generation_prompt"], request.body["continue_final_message"]) == (False, True)
    _, server = asked(lambda model: model.count_tokens(Request(prompt="Hi")), constraints="vllm")
    assert server.requests[0].body == {"model": "m", "prompt": "Hi"}


def test_vllm_scores_a_choice_by_the_tokens_of_its_prompt() -> None:
    def use(model: BaseModel) -> Any:
        return model(begun(of("Hi", choices=[" quite well"], logprobs=True), "I am"))

    completion, server = asked(use, constraints="vllm")
    assert (completion.text, completion.finish_reason) == (" quite well", "stop")
    assert [(token.token, token.logprob) for token in completion.logprobs] == [(" quite", -1.5), (" well", -2.0)]
    (request,) = server.requests
    assert request.body["messages"][-1] == {"role": "assistant", "content": "I am quite well"}
    assert (request.body["prompt_logprobs"], request.body["continue_final_message"]) == (0, True)
    assert "structured_outputs" not in request.body
    bare = Request(prompt="I am").with_params(choices=(" well, thanks",), logprobs=True, max_tokens=1)
    completion, _ = asked(lambda model: model(bare), constraints="vllm")
    assert (completion.text, completion.finish_reason) == (" well,", "length")
    with pytest.raises(BadRequest, match="shares a token"):
        asked(lambda model: model(bare.with_params(choices=("ber",))), constraints="vllm")


def test_what_the_api_itself_cannot_do_is_refused_before_the_call() -> None:
    for use, what in (
        (lambda model: model(begun(of("Hi"), "Well")), "continuing an assistant message"),
        (lambda model: model.count_tokens("Hi"), "cannot count tokens"),
    ):
        with pytest.raises(Unsupported, match=what):
            asked(use)
    model, _ = scripted(lambda request: request.messages[-1].text)
    with pytest.raises(Unsupported, match="scripted cannot do embeddings"):
        run(model.embed(["x"]))
    assert run(model(begun(of("Hi"), "Well"))).text == "Well"
    assert run(model.count_tokens("one two")) == 2


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaBackend]:
    backend = LlamaBackend(embedded_weights(), slots=4)
    yield backend
    run(backend.aclose())


class TestLlamaServer:
    """llama.cpp's own server, on loopback."""

    @pytest.fixture
    def model(self, llama: LlamaBackend) -> BaseModel:
        address = llama._load().listening_address
        backend = OpenAIBackend("m", base_url=f"{address}/v1", api_key=llama._key, constraints="llamacpp")
        return BaseModel(backend)

    test_begun = EngineContract.test_a_reply_begun_by_the_caller_is_continued
    test_counts = EngineContract.test_prompts_are_counted_as_the_model_sees_them
    test_scores = EngineContract.test_scores_are_of_the_tokenizers_own_tokens_and_sum_to_less_than_one
    test_refusals = EngineContract.test_a_schema_that_no_grammar_keeps_is_refused

    def test_a_server_without_embeddings_says_so(self, model: BaseModel) -> None:
        with pytest.raises(ModelError, match="does not support embeddings"):
            run(model.embed(["x"]))

    def test_a_wrong_key_counts_nothing(self, llama: LlamaBackend) -> None:
        backend = OpenAIBackend(
            "m", base_url=f"{llama._load().listening_address}/v1", api_key="wrong", constraints="llamacpp"
        )
        with pytest.raises(AuthenticationFailed):
            run(BaseModel(backend).count_tokens("Hi"))

    def test_a_choice_whose_token_ends_within_a_character_is_refused(self, model: BaseModel) -> None:
        with pytest.raises(BadRequest, match="ends within a character"):
            run(model(of("x", choices=["🐟"], logprobs=True)))
