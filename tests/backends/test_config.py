"""Endpoints from shoal.toml and the environment; mistakes are named, keys are not."""

from pathlib import Path

import pytest

from shoal.backends import open_base
from shoal.backends.config import Config, Endpoint, endpoint_named, load_config
from shoal.errors import UsageError

TOML = """
[endpoints.lab]
base_url = "http://127.0.0.1:${PORT}/v1"
api_key = "${LAB_KEY}"
rpm = 600
tpm = 2e5
max_in_flight = 7

[endpoints.other]
base_url = "http://127.0.0.1:2/v1"
api_key = "${NEVER_SET}"
"""


def config(text: str = TOML) -> Config:
    Path("shoal.toml").write_text(text)
    return load_config()


def test_endpoint_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8000")
    monkeypatch.setenv("LAB_KEY", "secret")
    endpoint = endpoint_named("lab", config())
    assert endpoint == Endpoint("http://127.0.0.1:8000/v1", "secret", 600, 2e5, 7)
    assert "secret" not in repr(endpoint)
    model = open_base("lab/llama", config())
    assert model.scheduler.max_in_flight == 7
    assert "secret" not in repr(model) + model.backend.identity


def test_a_variable_that_is_not_set_is_named_when_it_is_needed() -> None:
    found = config()
    with pytest.raises(UsageError, match=r"\[endpoints.other\] api_key: the environment has no variable NEVER_SET"):
        endpoint_named("other", found)


def test_endpoint_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_LAB_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("MY_LAB_API_KEY", "k")
    assert endpoint_named("my-lab", Config()) == Endpoint("http://127.0.0.1:1/v1", "k")
    assert endpoint_named("nowhere", Config()) is None
    openai = endpoint_named("openai", Config())
    assert openai is not None
    assert openai.base_url == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:3/v1")
    openai = endpoint_named("openai", Config())
    assert openai is not None
    assert openai.base_url == "http://127.0.0.1:3/v1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[endpoint.lab]\n", "unknown key 'endpoint'; did you mean endpoints?"),
        ('[endpoints.lab]\nbase_ulr = "x"\n', r"\[endpoints.lab\]: unknown key 'base_ulr'; did you mean base_url?"),
        ("[endpoints.lab]\nrpm = 3\n", "missing required field `base_url`"),
        ('[endpoints.lab]\nbase_url = "x"\nrpm = "many"\n', r"Expected `float \| null`, got `str` - at `\$.rpm`"),
        *(
            (f'[endpoints.lab]\nbase_url = "x"\n{key} = {value}\n', rf"\[endpoints.lab\]: .* - at `\$.{key}`")
            for key in ("rpm", "tpm", "max_in_flight", "timeout", "max_n", "queries_per_batch")
            for value in ("0", "-1")
        ),
        ('[endpoints.lab]\nbase_url = "x"\nconstraints = "vlm"\n', "constraints`; known: vllm, llamacpp"),
        ('[endpoints.local]\nbase_url = "x"\n', r"\[endpoints.local\]: local means something else"),
        ("endpoints = 3\n", "must be tables"),
        ("[endpoints\n", "shoal.toml: "),
    ],
)
def test_mistakes_are_named(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('base_url = "10.0.0.7:8000"', r"^shoal.toml \[endpoints.lab\]: base_url must be an http"),
        ('base_url = "http://127.0.0.1:99999/v1"', r"^shoal.toml \[endpoints.lab\]: base_url is not a URL"),
        ('base_url = "http://127.0.0.1/v1"\napi_key = "a\\nb"', r"^shoal.toml \[endpoints.lab\]: the API key holds"),
        ('base_url = "http://127.0.0.1/v1"\napi_key = "${NEVER_SET}"', r"^shoal.toml \[endpoints.lab\] api_key: "),
    ],
)
def test_what_cannot_be_opened_is_named_with_its_table(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_base("lab/m", config(f"[endpoints.lab]\n{text}\n"))


def test_an_endpoint_that_is_not_there_is_asked_for() -> None:
    with pytest.raises(
        UsageError,
        match=r"'lab/m'; known: gguf, openai, scripted, transformers, vllm .* \[endpoints.lab\] in shoal.toml",
    ):
        open_base("lab/m", Config())


def test_a_byte_order_mark_does_no_harm() -> None:
    assert "lab" in config(f"\ufeff{TOML}").endpoints


def test_no_file_is_no_configuration(tmp_path: Path) -> None:
    assert load_config() == Config()
    with pytest.raises(UsageError, match=r"no configuration file .*nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")
