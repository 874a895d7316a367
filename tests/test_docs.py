"""Every Python block and every shoal command of the README and the docs runs, on a scripted model."""

import re
import shlex
from pathlib import Path

import pytest

from shoal.backends.config import load_config
from shoal.cli import main
from shoal.cli.catalogue import table
from shoal.cli.key import key
from shoal.cli.serve import serve
from shoal.server.settings import settings_of
from shoal.techniques import TECHNIQUES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Documents name models that need a key, a server or the weights; here a script stands in for all of them.
STAND_IN = "scripted/stand_in.py:answer"
REAL = re.compile(r"\b(local|openai/[\w.-]+|lab/[\w./-]+|gguf/[\w./-]+)(?=[\s\"')]|$)")
SCRIPT = """
from shoal.runtime.types import Completion, TokenLogprob

def answer(request):
    if request.params.json_schema:
        return '{"name": "Nice", "people": 340000}'
    if request.params.choices:
        return Completion(request.params.choices[0], logprobs=(TokenLogprob(request.params.choices[0], -1.0),))
    return "It is hard to say. Score: 7. The answer is 42."
"""
PROGRAMS = ROOT / "docs" / "programs.md"  # its blocks are one program


def blocks(kind: str) -> list[object]:
    found = []
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text("utf-8")):
            if match[1] == kind and (page != PROGRAMS or kind != "python"):
                line = page.read_text("utf-8")[: match.start()].count("\n") + 2
                found.append(pytest.param(match[2], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


@pytest.fixture(autouse=True)
def workplace(at_home: Path) -> None:
    (at_home / "stand_in.py").write_text(SCRIPT)
    (at_home / "questions.jsonl").write_text('{"question": "What is 6 x 7?", "answer": "42"}\n' * 3)
    (at_home / "examples").symlink_to(ROOT / "examples")


@pytest.mark.parametrize("code", blocks("python"))
def test_python(code: str) -> None:
    execute(REAL.sub(STAND_IN, code))


@pytest.mark.parametrize("model", [STAND_IN, "local"])
def test_programs(model: str) -> None:
    code = "".join(match[2] for match in BLOCK.finditer(PROGRAMS.read_text("utf-8")) if match[1] == "python")
    execute(REAL.sub(model, code))


def execute(code: str) -> None:
    exec(compile(code, "docs", "exec"), {"__name__": "docs"})  # noqa: S102 - our own documents


@pytest.mark.parametrize("text", blocks("console"))
def test_commands(text: str) -> None:
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.startswith("$ shoal "):
            continue
        command = REAL.sub(STAND_IN, line.removeprefix("$ shoal ").split(" #")[0])
        with pytest.raises(SystemExit) as exit_:
            main(shlex.split(command))
        assert exit_.value.code == 0, line


SERVER_COMMAND = re.compile(r"^(?:\$ )?shoal (serve|key)(?= |$)([^#>\n]*)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_server_commands_are_as_the_command_line_has_them(page: Path) -> None:
    for name, arguments in SERVER_COMMAND.findall(page.read_text("utf-8")):
        command = {"serve": serve, "key": key}[name]
        command.make_context(name, shlex.split(arguments)).close()


def configurations() -> list[object]:
    blocks = [(page, match) for page in PAGES for match in CONFIGURATION.finditer(page.read_text("utf-8"))]
    return [pytest.param(match[1], id=f"{page.name}:{match.start()}") for page, match in blocks]


CONFIGURATION = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", configurations())
def test_configurations_are_read(text: str, at_home: Path) -> None:
    (at_home / "shoal.toml").write_text(text.replace('"0f1e..."', f'"{"0f" * 32}"'))
    settings_of(load_config())


def test_the_table_of_techniques_is_the_catalogue() -> None:
    page = (ROOT / "docs" / "techniques.md").read_text()
    assert page.split("<!-- techniques -->")[1].split("<!-- /techniques -->")[0].strip().splitlines() == table()


def test_every_technique_has_its_section() -> None:
    page = (ROOT / "docs" / "techniques.md").read_text()
    assert [slug for slug in TECHNIQUES if f"\n## {slug}\n" not in page] == []


def test_links_inside_the_documents_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
