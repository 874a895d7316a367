"""[engines.NAME]: what a spec loads, and mistakes named with their place."""

from pathlib import Path

import pytest

from shoal.backends import BaseModel
from shoal.backends.config import load_config
from shoal.backends.engines import Loading, loading
from shoal.errors import UsageError
from shoal.runtime.retry import RetryPolicy
from shoal.runtime.scheduler import Scheduler
from shoal.techniques.opening import open_model

TOML = """
[engines.big]
engine = "vllm"
model = "org/big"
options = { tensor_parallel_size = 2, dtype = "bfloat16" }
lora = { sql = "adapters/sql", "code.v2" = "/adapters/code" }

[engines.beside]
engine = "transformers"
model = "weights"
"""
OPTIONS = {"tensor_parallel_size": 2, "dtype": "bfloat16"}


def opened(spec: str, file: str = "shoal.toml") -> Loading:
    config = load_config(Path(file))
    engine, _, name = spec.partition("/")
    return loading(engine, name, config.engines, config.file)


def test_a_table_says_what_is_loaded() -> None:
    Path("shoal.toml").write_text(TOML)
    adapters = {"sql": Path("adapters/sql"), "code.v2": Path("/adapters/code")}
    assert opened("vllm/big") == Loading("org/big", OPTIONS, None, "vllm/big", adapters)
    assert opened("vllm/big:sql") == Loading("org/big", OPTIONS, Path("adapters/sql"), "vllm/big:sql", adapters)
    assert opened("vllm/big:code.v2").lora == Path("/adapters/code")


def test_a_spec_without_a_table_is_the_model_itself_with_no_options() -> None:
    Path("shoal.toml").write_text(TOML)
    for name in ("org/model", "/models/big", "C:/big:sql"):
        assert opened(f"vllm/{name}") == Loading(name, {}, None, f"vllm/{name}")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "conf" / "weights").mkdir(parents=True)
    (tmp_path / "conf" / "x.toml").write_text(TOML)
    assert opened("transformers/beside", "conf/x.toml").model == str(Path("conf/weights"))
    assert opened("vllm/big:sql", "conf/x.toml").lora == Path("conf/adapters/sql")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("transformers/big", r"shoal.toml \[engines.big\] says engine = 'vllm'; write vllm/big"),
        ("vllm/big:sqk", r"shoal.toml \[engines.big\] has no adapter 'sqk'; did you mean sql\?"),
        ("transformers/beside:", r"has no adapter ''; none is known"),
    ],
)
def test_a_spec_that_does_not_fit_its_table_is_refused(spec: str, said: str) -> None:
    Path("shoal.toml").write_text(TOML)
    with pytest.raises(UsageError, match=said):
        opened(spec)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[engines.x]\nengine = "vlm"\nmodel = "m"\n', r"\[engines.x\]: .*; known: vllm, transformers"),
        ('[engines.x]\nengine = "vllm"\n', r"\[engines.x\]: .*missing required field `model`"),
        ('[engines.x]\nengine = "vllm"\nmodle = "m"\n', r"\[engines.x\]: unknown key 'modle'; did you mean model\?"),
        ('[engines."x:y"]\nengine = "vllm"\nmodel = "m"\n', "an engine's name is of letters"),
        ('[engines.x]\nengine = "vllm"\nmodel = "m"\nlora = { "a b" = "c" }\n', r"\[engines.x\] lora: the name 'a b'"),
        ("[engines]\nx = 3\n", r"\[engines.x\]: must be a table"),
    ],
)
def test_mistakes_are_named(text: str, said: str) -> None:
    Path("shoal.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        load_config()


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_an_endpoint_cannot_take_an_engines_name(engine: str) -> None:
    Path("shoal.toml").write_text(f'[endpoints.{engine}]\nbase_url = "http://127.0.0.1:1/v1"\n')
    with pytest.raises(UsageError, match=f"{engine} means something else"):
        load_config()


def test_a_missing_engine_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.backends.vllm.backend._ENGINE_PACKAGES", ("no-such-package",))
    with pytest.raises(UsageError, match=r"needs its engine; run: pip install 'shoal\[vllm\]'"):
        open_model("vllm/org/m", cache=None)
    with pytest.raises(UsageError, match="model 'vllm': expected vllm/MODEL"):
        open_model("vllm", cache=None)


def test_a_call_may_wait_in_an_engine_for_as_long_as_its_batch_takes() -> None:
    def deadline(spec: str, retry: RetryPolicy | None = None) -> float:
        model = open_model(spec, cache=None, retry=retry)
        assert isinstance(model, BaseModel)
        assert isinstance(model.scheduler, Scheduler)
        return model.scheduler.retry.deadline

    assert deadline("local") > 24 * 3600.0
    Path("x.py").write_text("def f(request):\n    return 'x'\n")
    assert deadline("scripted/x.py:f") == RetryPolicy().deadline
    assert deadline("local", RetryPolicy(deadline=5.0)) == 5.0
