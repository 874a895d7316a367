"""The shape of the code: names, sizes, and what importing it costs."""

import ast
import subprocess
import sys
import types
from pathlib import Path

import pytest

import shoal

SOURCE = Path(shoal.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
HEAVY = (
    "pyreqwest",
    "aiohttp",
    "openvino_genai",
    "xllamacpp",
    "numpy",
    "pyarrow",
    "pandas",
    "polars",
    "datasets",
    "rich",
    "click",
    "jinja2",
    "markupsafe",
    "opentelemetry",
    "markdown_it",
    "latex2mathml",
    "pygments",
    "genai_prices",
    "matplotlib",
    "scipy",
    "gepa",
    "hjson",
    "yaml",
    "wordllama",
    "wandb",
    "reasoning_gym",
    "math_verify",
    "prometheus_client",
    "pydantic",
    "ray",
    "daft",
)


def ids(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_modules_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400
    if text.strip():
        assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name} is too long"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_names_say_what_a_class_does(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef):
            for word in ("Manager", "Handler", "Helper", "Utils", "Abstract"):
                assert word not in node.name


# Runs a model's program with `exec`, in a forked child that is confined by then. The next test says who may reach it.
CHILD_ONLY = SOURCE / "sandbox" / "child" / "program.py"


def test_model_written_code_is_never_run_here() -> None:
    for path in MODULES:
        if path == CHILD_ONLY:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), path


def test_only_the_confined_child_imports_what_runs_code() -> None:
    for path in (path for path in MODULES if path.parent != CHILD_ONLY.parent):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                imported = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert not imported & {"shoal.sandbox.child.program", "shoal.sandbox.child.zygote"}, path
    code = "import shoal.sandbox, sys; print([m for m in sys.modules if m.endswith(('child.program', 'child.zygote'))])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_public_names() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    exported = {alias.asname for node in imports for alias in node.names}
    for name in exported:
        getattr(shoal, str(name))
    later = {alias.asname for node in imports if node.col_offset for alias in node.names}
    assert later == set(shoal._LATER)
    modules = {"c", "llm"}  # written with their names in front
    visible = {n for n in dir(shoal) if not n.startswith("_") and not isinstance(getattr(shoal, n), types.ModuleType)}
    assert visible - {"TYPE_CHECKING", "Any"} | modules == exported
    with pytest.raises(AttributeError, match="'shoal' has no attribute 'nothing'"):
        getattr(shoal, "nothing")  # noqa: B009


def test_importing_shoal_pulls_in_nothing_heavy() -> None:
    code = f"import shoal, sys; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_tests_mirror_the_source() -> None:
    """Every package with code has its folder of tests."""
    tests = Path(__file__).parent
    for package in (p for p in SOURCE.iterdir() if p.is_dir() and p.name != "__pycache__"):
        assert list((tests / package.name).glob("test_*.py")), package.name
