"""What the documents tell people to write against a server: every `py` block runs, against one on another port."""

import re
from pathlib import Path

import pytest
from tests.server.sdks import assistant, served
from tests.server.serving import scripted_model

from shoal.backends.waves import WaveStore

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```py\n(.*?)^```", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"
WAVES = ROOT / "docs" / "waves.md"  # its blocks ask by the batch API of a provider
CLUSTERS = ROOT / "docs" / "ray.md"  # its blocks are run where clusters are tested
CLIENTS = {ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - {WAVES, CLUSTERS}


def blocks(*pages: Path) -> list[object]:
    return [
        pytest.param(match[1], id=f"{page.name}:{match.string.count(chr(10), 0, match.start()) + 2}")
        for page in pages
        for match in BLOCK.finditer(page.read_text("utf-8"))
    ]


@pytest.mark.parametrize("code", blocks(*sorted(CLIENTS)))
def test_clients(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ADDRESS in code
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    for module in re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE):
        pytest.importorskip(module)
    with served({"local": scripted_model(assistant)}, state=str(tmp_path / "state")) as url:
        exec(compile(code.replace(ADDRESS, url), "docs", "exec"), {"__name__": "docs"})  # noqa: S102 - our own documents
    if "print(" in code:
        assert "You said:" in capsys.readouterr().out


@pytest.mark.parametrize("code", blocks(WAVES))
def test_batch_api(code: str, at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = scripted_model(assistant)
    with served({"gpt-x": model}, state=str(at_home / "state")) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        exec(compile(code, "docs", "exec"), {"__name__": "docs"})  # noqa: S102 - our own documents
    (directory,) = Path("runs").iterdir()
    store = WaveStore(directory, read_only=True)
    waves = store.waves()
    store.close()
    assert {wave.state for wave in waves} == {"settled"}
    assert sum(wave.draws for wave in waves) == model.scheduler.draws
