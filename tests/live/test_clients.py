"""Other people's clients against the server, unchanged: the `llm` command, LiteLLM, LangChain's ChatOpenAI.

Each needs its package, which this project does not: `pip install llm litellm langchain-openai`, then
`pytest -m live tests/live`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel as Form
from tests.server.sdks import WEATHER, assistant, served
from tests.server.serving import scripted_model

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]  # the warnings are theirs

MODELS = ["m", "self_consistency(n=3)@m"]
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": WEATHER}}


class Weather(Form):
    city: str
    degrees: int


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served({"m": scripted_model(assistant)}) as url:
        yield url


# llm


def told(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "llm", *arguments]
    environment = {**os.environ, "LLM_USER_PATH": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("model", MODELS)
def test_the_llm_command(url: str, tmp_path: Path, model: str) -> None:
    pytest.importorskip("llm")
    described = {
        "model_id": "shoal",
        "model_name": model,
        "api_base": f"{url}/v1",
        "supports_schema": True,
        "supports_tools": True,
    }
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([described]), "utf-8")
    ask = ("-m", "shoal", "--key", "none")
    assert told(tmp_path, *ask, "Hi") == "You said: Hi"
    assert told(tmp_path, *ask, "--no-stream", "Hi") == "You said: Hi"
    assert json.loads(told(tmp_path, *ask, "--schema", "city, degrees int", "Q"))["city"] == "Oslo"
    function = "def weather(city: str) -> str:\n    return 'cold in ' + city"
    assert told(tmp_path, *ask, "--functions", function, "Weather?") == "It is cold in Oslo."


# LiteLLM


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return pytest.importorskip("litellm")


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("model", MODELS)
def test_litellm_over_openais_apis(litellm: Any, url: str, model: str) -> None:
    ask = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": "none"}
    assert litellm.completion(messages=user("Hi"), **ask).choices[0].message.content == "You said: Hi"
    pieces = litellm.completion(messages=user("Hi"), stream=True, **ask)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "You said: Hi"
    (call,) = litellm.completion(messages=user("Weather?"), tools=[TOOL], **ask).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    formed = litellm.completion(messages=user("Q"), response_format=Weather, **ask).choices[0].message.content
    assert Weather.model_validate_json(formed) == Weather(city="Oslo", degrees=4)
    assert litellm.responses(input="Hi", **ask).output[0].content[0].text == "You said: Hi"
    events = [event.type for event in litellm.responses(input="Hi", stream=True, **ask)]
    assert events[-1] == "response.completed"
    texts = {**ask, "model": f"text-completion-openai/{model}"}
    assert litellm.text_completion(prompt="Hi", **texts).choices[0].text == "You said: Hi"


@pytest.mark.parametrize("model", MODELS)
def test_litellm_over_anthropics_api(litellm: Any, url: str, model: str) -> None:
    ask = {"model": f"anthropic/{model}", "api_base": url, "api_key": "none"}
    assert litellm.completion(messages=user("Hi"), **ask).choices[0].message.content == "You said: Hi"
    pieces = litellm.completion(messages=user("Hi"), stream=True, **ask)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "You said: Hi"
    talk = user("Weather?")
    message = litellm.completion(messages=talk, tools=[TOOL], **ask).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "cold"}
    again = litellm.completion(messages=[*talk, message, result], tools=[TOOL], **ask)
    assert again.choices[0].message.content == "It is cold."


def test_litellm_tells_errors_apart(litellm: Any, url: str) -> None:
    for model, base in (("openai/nobody", f"{url}/v1"), ("anthropic/nobody", url)):
        with pytest.raises(litellm.NotFoundError):
            litellm.completion(model=model, messages=user("Hi"), api_base=base, api_key="none", num_retries=0)


# LangChain


@pytest.mark.parametrize("responses", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_langchain(url: str, model: str, responses: bool) -> None:
    langchain = pytest.importorskip("langchain_openai")
    chat = langchain.ChatOpenAI(model=model, base_url=f"{url}/v1", api_key="none", use_responses_api=responses)
    assert chat.invoke("Hi").text == "You said: Hi"
    assert "".join(chunk.text for chunk in chat.stream("Hi")) == "You said: Hi"
    usage = chat.invoke("Hi").usage_metadata
    assert usage["total_tokens"] == (4 if model == "m" else 12)
    calling = chat.bind_tools([TOOL])
    asked = calling.invoke("Weather?")
    assert asked.tool_calls[0]["args"] == {"city": "Oslo"}
    result = {"role": "tool", "tool_call_id": asked.tool_calls[0]["id"], "content": "cold"}
    assert calling.invoke([*user("Weather?"), asked, result]).text == "It is cold."
    assert chat.with_structured_output(Weather).invoke("Q") == Weather(city="Oslo", degrees=4)
