"""What the documents tell people to write against a server: every `py` block runs, against one on another port."""

import re
from pathlib import Path

import pytest
from tests.server.sdks import assistant, served
from tests.server.serving import scripted_model

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```py\n(.*?)^```", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"
NO_SERVER = ("ray.md", "waves.md")  # their blocks are run where clusters and batch APIs are tested


def blocks() -> list[object]:
    return [
        pytest.param(match[1], id=f"{page.name}:{match.string.count(chr(10), 0, match.start()) + 2}")
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
        if page.name not in NO_SERVER
        for match in BLOCK.finditer(page.read_text("utf-8"))
    ]


@pytest.mark.parametrize("code", blocks())
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
