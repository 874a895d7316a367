"""`shoal key`, and how `shoal serve` begins."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from shoal.backends.config import load_config
from shoal.cli import main
from shoal.server.access.keys import digest
from shoal.server.batches.state import State
from shoal.server.settings import settings_of

SCRIPT = "def f(request):\n    return 'The answer is 4.'\n"


def shoal(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    told = capsys.readouterr()
    return exit_.value.code, told.out, told.err


def test_a_key_is_shown_once_and_its_digest_goes_into_the_configuration(
    capsys: pytest.CaptureFixture[str], at_home: Path
) -> None:
    code, out, err = shoal(capsys, "key", "alice")
    assert code == 0
    (key,) = re.findall(r"shoal-[\w-]{43}", err)
    assert key not in out
    (at_home / "shoal.toml").write_text(out)
    settings = settings_of(load_config())
    assert settings.keys["alice"].sha256 == digest(key).hex()
    assert not [file for file in at_home.rglob("*") if file.is_file() and key in file.read_text("utf-8")]


def test_a_key_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = shoal(capsys, "key", "alice", "--json")
    made = json.loads(out)
    assert (code, err, made["name"]) == (0, "", "alice")
    assert made["sha256"] == digest(made["key"]).hex()
    assert json.loads(shoal(capsys, "key", "alice", "--json")[1])["key"] != made["key"]


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a]\n[x", "é", "x" * 65])
def test_names_of_keys_are_plain(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = shoal(capsys, "key", name)
    assert (code, out) == (2, "")
    assert "a key's name is of 1 to 64 letters" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "keys are needed"),
        (("--key", ""), "a key cannot be empty"),
        (("--log-format", "xml"), "--log-format"),
        (("--config", "absent.toml"), "no configuration file absent.toml"),
    ],
)
def test_what_is_refused_before_anything_begins(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = shoal(capsys, "serve", "-m", "scripted/absent.py:f", "--port", "0", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[server]\nmodels = ["lab/x"]', "shoal.toml [server]: models: unknown model 'lab/x'"),
        ('[server]\nmodels = ["best_of_n(m=4)@local"]', "shoal.toml [server]: models: best_of_n has no option 'm'"),
        ('[server]\nmodels = ["best_of_n(n=-4)@local"]', "best_of_n(n=-4)@local: its options leave no call to make"),
        ('[server]\nmodels = ["best_of_n(n=500)@local"]', "may take 1000 calls, and a request may take 128"),
        ('[presets.big]\nmodel = "self_consistency(n=129)@local"', "big: may take 129 calls"),
        (
            '[server]\nmodels = ["lab/x"]\n[endpoints.lab]\nbase_url = "x"',
            "shoal: shoal.toml [endpoints.lab]: base_url",
        ),
        ('[server]\nhosts = ["*"]', "shoal.toml [server]: hosts: '*' is not a name or address alone"),
        ('[server]\nhosts = ["https://lab.example"]', "hosts: 'https://lab.example' is not a name"),
        ('[server]\nhosts = ["lab.example:80"]', "hosts: 'lab.example:80' is not a name"),
        ('[server]\ncache = "on"', "`$.cache`; known: off, key, shared"),
        (
            f'[server.keys.a]\nsha256 = "{DIGEST}"\n[server.keys.b]\nsha256 = "{DIGEST.upper()}"',
            "shoal.toml [server.keys.b]: sha256 is that of a, too",
        ),
        ('[presets.""]\nmodel = "local"', "shoal.toml [presets.]: a preset's name is not empty"),
        ('[presets."a@b"]\nmodel = "local"', "shoal.toml [presets.a@b]: a preset's name"),
        ('[presets.s]\nmodel = "local"\n[models.s]\nendpoints = ["local"]', "[presets.s]: s is one of [models] too"),
    ],
)
def test_mistakes_in_the_configuration_are_one_line(
    text: str, said: str, at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (at_home / "shoal.toml").write_text(text)
    code, out, err = shoal(capsys, "serve", "--port", "0")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("host", ["lab.example", "10.0.0.7", "fe80::1"])
def test_hosts_are_names_and_addresses(host: str) -> None:
    Path("shoal.toml").write_text(f'[server]\nhosts = ["{host}"]')
    assert settings_of(load_config()).hosts == (host,)


def served(at_home: Path, *arguments: str, key: str = "") -> tuple[Any, str]:
    """What /v1/models says to a key, and what the server wrote to standard error."""
    (at_home / "s.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "shoal", "serve", "-m", "scripted/s.py:f", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=at_home)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if url := re.search(r"http://\S+/v1", line):
                break
        else:
            raise AssertionError(process.stderr.read() if process.stderr else "")
        asked = urllib.request.Request(f"{url[0]}/models", headers={"x-api-key": key})
        with urllib.request.urlopen(asked) as response:
            told = json.load(response)
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    return told, err


def test_the_log_of_a_server_as_json_and_never_its_keys(at_home: Path) -> None:
    key = "shoal-canary-" + "k" * 40
    told, err = served(at_home, "--key", key, "--log-format", "json", key=key)
    assert told["data"][0]["id"] == "scripted/s.py:f"
    (line,) = [json.loads(line) for line in err.splitlines()]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/models", 200)
    assert line["key"] == f"key-{digest(key).hex()[:12]}"
    assert "canary" not in err


def test_a_quiet_server_writes_nothing(at_home: Path) -> None:
    assert served(at_home, "--quiet")[1] == ""


def test_a_warning_is_a_line_of_the_log() -> None:
    program = "import warnings; from shoal.server.records import log_to_stderr as log; log('json', quiet=True)"
    command = [sys.executable, "-c", f"{program}; warnings.warn('the cache is off')"]
    err = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stderr
    assert json.loads(err)["message"] == "the cache is off"


def test_a_second_server_is_told_to_keep_its_files_elsewhere(at_home: Path) -> None:
    directory = at_home / "state" / "shoal" / "server"
    first = State(directory)
    try:
        err = served(at_home)[1].splitlines()[0]
    finally:
        first.close()
    assert err.startswith(f"files and batches are not served: {directory} is in use by process ")
    assert err.endswith("; give this server its own, state in [server]")


def test_a_closed_standard_stream_is_no_place_for_a_socket(at_home: Path) -> None:
    told = "os.write(2, str(os.fstat(1)).encode())"  # a device of characters, not a socket
    code = f"import os; from shoal.cli import main\ntry: main(['models'])\nfinally: {told}"
    closed = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&- <&-', sys.executable, code], capture_output=True, text=True, timeout=60
    )
    assert (closed.returncode, closed.stderr.partition("st_ino")[0]) == (0, "os.stat_result(st_mode=8630, ")
