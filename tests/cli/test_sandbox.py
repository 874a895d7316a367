"""`shoal sandbox`."""

import io
import json
from pathlib import Path

import pytest

from shoal.cli import main
from shoal.sandbox import check


def shoal(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["sandbox", *arguments])
    told = capsys.readouterr()
    return exit_.value.code, told.out, told.err


@pytest.fixture
def usable() -> None:
    if not check().usable:
        pytest.skip(check().missing)


@pytest.mark.usefixtures("usable")
def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = shoal(capsys, "check")
    assert code == 0
    assert f"in use: {check().isolation}; an empty program takes" in out
    code, out, _ = shoal(capsys, "check", "--json")
    told = json.loads(out)
    assert told["usable"]
    assert told["seconds"]["run"] > 0
    assert {"name", "holds", "why"} == set(told["layers"][0])


def test_check_where_there_is_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SANDBOX", "off")
    code, out, _ = shoal(capsys, "check")
    assert code == 1
    assert "cannot be confined here" in out
    code, out, _ = shoal(capsys, "check", "--json")
    assert code == 1
    assert json.loads(out)["isolation"] == ""
    monkeypatch.setattr("sys.stdin", io.StringIO("print(1)"))
    code, _, err = shoal(capsys, "run", "-")
    assert code == 1
    assert "SandboxUnavailable" in err


@pytest.mark.usefixtures("usable")
def test_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, at_home: Path) -> None:
    (at_home / "program.py").write_text("import sys\nprint(sys.stdin.read().upper())\nsys.exit(4)\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("told"))
    assert shoal(capsys, "run", "program.py") == (4, "TOLD\n", "")
    (at_home / "program.py").write_text("while True: pass")
    code, _, err = shoal(capsys, "run", "program.py", "--time", "0.2")
    assert code == 1
    assert err == "shoal sandbox: stopped: it used up its wall time\n"
    (at_home / "program.py").write_text("x = bytearray(900 << 20)")
    code, out, _ = shoal(capsys, "run", "program.py", "--memory", "512", "--json")
    assert code == 1
    assert json.loads(out)["stopped"] == "memory"
    (at_home / "program.py").write_bytes(b"\xff")
    code, _, err = shoal(capsys, "run", "program.py")
    assert code == 2
    assert "not UTF-8" in err
