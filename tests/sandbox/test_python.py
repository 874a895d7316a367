"""Programs that mean well: they run as they would anywhere, and what they print and how they end is told."""

# ruff: noqa: E501 - a program and what it prints stay together
import asyncio
from pathlib import Path

import pytest

from shoal.errors import UsageError
from shoal.sandbox import Limits, Outcome, places, run_python, run_smt
from shoal.sandbox.child.wire import PACKAGES

pytestmark = pytest.mark.usefixtures("tier")


def run(code: str, stdin: str = "", **limits: float) -> Outcome:
    return asyncio.run(run_python(code, stdin=stdin, limits=Limits(**limits)))  # type: ignore[arg-type]


PRINTS = {
    "names of the top level": ("x = 1\ndef f():\n    return x + g()\ndef g(): return 2\nprint(f())", "3\n"),
    "main": ("if __name__ == '__main__': print(__name__, __import__('sys').argv)", "__main__ ['<program>']\n"),
    "comprehension": ("n = 3\nclass A: y = [i for i in range(n)]\nprint(A.y)", "[0, 1, 2]\n"),
    "unicode": ("print('größer ≥ 🐟')", "größer ≥ 🐟\n"),
    "z3": (
        "import z3\nx, y = z3.Ints('x y')\ns = z3.Solver()\ns.add(x + y == 10, x - y == 4)\nprint(s.check(), s.model()[x])",
        "sat 7\n",
    ),
    "z3 star": ("from z3 import *\nx = Int('x')\nsolve(x > 2, x < 4)", "[x = 3]\n"),
    "z3 timeout": (
        "from z3 import *\ns = Solver()\ns.set('timeout', 50)\nx, y, z = Ints('x y z')\n"
        "s.add(x**3 + y**3 + z**3 == 42, x > 10**6)\nprint(s.check())",
        "unknown\n",
    ),
    "z3 optimises": ("from z3 import *\no = Optimize()\nx = Int('x')\no.add(x < 9)\no.maximize(x)\nprint(o.check(), o.model())", "sat [x = 8]\n"),
    "sympy": ("from sympy import *\nx = symbols('x')\nprint(solve(x**2 - 2), integrate(cos(x), x))", "[-sqrt(2), sqrt(2)] sin(x)\n"),
    "math_verify": ("from math_verify import *\nprint(verify(parse('$1/2$'), parse('$0.5$')))", "True\n"),
    "metadata": (
        "from importlib.metadata import distributions\nprint([d.metadata['Name'] for d in distributions()])",
        "['antlr4-python3-runtime']\n",
    ),
    "numpy": ("import numpy as np\nprint(np.linalg.solve(np.eye(2) * 2, [2, 4]))", "[1. 2.]\n"),
    "hidden import": ("m = __import__('sym' + 'py')\nprint(m.factorint(12))", "{2: 2, 3: 1}\n"),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor as P\nwith P(8) as p: print(sum(p.map(lambda n: n * n, range(100))))",
        "328350\n",
    ),
    "thread at the end": ("import threading, time\nthreading.Timer(0.05, print, ['late']).start()", "late\n"),
    "atexit": ("import atexit\natexit.register(print, 'bye')", "bye\n"),
    "files": (
        "import os\nopen('a.txt', 'w').write('é')\n"
        "with open('a.txt') as f: print(f.read(), os.listdir())",
        "é ['a.txt']\n",
    ),
    "null device": ("import contextlib, os\nwith contextlib.redirect_stdout(open(os.devnull, 'w')): print(1)\nprint(2)", "2\n"),
    "sqlite": ("import sqlite3\nprint(sqlite3.connect(':memory:').execute('select 1 + 1').fetchone())", "(2,)\n"),
    "decimal": ("from decimal import *\nfrom fractions import *\nprint(Decimal('0.1') * 3, Fraction(1, 3))", "0.3 1/3\n"),
    "dates": ("import datetime, zoneinfo, statistics\nprint(datetime.date(2024, 2, 29).isoweekday())", "4\n"),
    "dataclass": (
        "from dataclasses import *\nimport pickle\n@dataclass\nclass P:\n    x: int\nprint(pickle.loads(pickle.dumps(P(3))))",
        "P(x=3)\n",
    ),
    "alarm": (
        "import signal, time\ndef ring(*a): raise TimeoutError\nsignal.signal(signal.SIGALRM, ring)\nsignal.setitimer(0, .02)\n"
        "try:\n    while 1: time.sleep(1)\nexcept TimeoutError: print('rang')",
        "rang\n",
    ),
    "future": ("from __future__ import annotations\ndef f(x: undefined): pass\nprint(f.__annotations__)", "{'x': 'undefined'}\n"),
    "not utf-8": ("import os\nos.write(1, b'a\\xffb')", "a\ufffdb"),
    "empty": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", PRINTS)
def test_prints(name: str) -> None:
    code, printed = PRINTS[name]
    outcome = run(code, wall=30, cpu=20)
    assert outcome.stdout == printed, outcome
    assert outcome.ok, outcome
    assert outcome.error == ""


def test_isolation_is_told(tier: str) -> None:
    assert run("pass").isolation == {"bubblewrap": "bubblewrap+", "landlock": ""}[tier] + "landlock+seccomp"


def test_directories_and_temporary_files(tier: str) -> None:
    outcome = run("import tempfile, os\nwith tempfile.TemporaryDirectory(dir='.') as d: print(os.path.isdir(d))")
    if tier == "bubblewrap":
        assert outcome.stdout == "True\n"
    else:  # the second tier takes files only, and keeps them
        assert "PermissionError" in outcome.error


def test_input() -> None:
    assert run("print(input() + input())", stdin="a\nb\n").stdout == "ab\n"
    assert run("import sys; print(len(sys.stdin.read()))", stdin="ü" * 3_000_000).stdout == "3000000\n"
    assert "EOFError" in run("input()").error
    assert run("import sys; sys.stdin.buffer.raw.write(b'x')").exit_code == 1
    assert run("print(input())", stdin="\ud800").stdout == "?\n"


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(0)", 0, ""),
        ("import sys; sys.exit(3)", 3, "ended with exit code 3 and no message"),
        ("import sys; sys.exit(256 + 7)", 7, "ended with exit code 7 and no message"),
        ("import sys; sys.exit('no solution')", 1, "no solution"),
        ("raise SystemExit(True)", 1, "ended with exit code 1 and no message"),
        ("exit = quit = None\nraise KeyboardInterrupt", 1, "KeyboardInterrupt"),
    ],
)
def test_exit_codes(code: str, status: int, error: str) -> None:
    outcome = run(code)
    assert outcome.exit_code == status
    assert outcome.stopped is None
    assert error in outcome.error


def test_tracebacks_are_of_the_program() -> None:
    outcome = run("x = 1\n\ndef f():\n    return x / 0\n\nf()\n")
    assert outcome.exit_code == 1
    lines = [line for line in outcome.error.splitlines() if "^" not in line]
    assert lines == [
        "Traceback (most recent call last):",
        '  File "<program>", line 6, in <module>',
        "    f()",
        '  File "<program>", line 4, in f',
        "    return x / 0",
        "ZeroDivisionError: division by zero",
    ]


def test_code_that_is_none() -> None:
    assert "SyntaxError" in run("def f(:").error
    assert '"<program>", line 2' in run("x = 1\nwhile True print(1)").error
    assert "null bytes" in run("x = '\0'").error
    assert "not valid Unicode" in run("x = '\ud800'").error
    assert not run("(" * 5000 + ")" * 5000).ok
    assert not run("-" * 200_000 + "1").ok


def test_what_was_printed_before_the_limit_is_told() -> None:
    outcome = run("print('so far')\nwhile True: pass", wall=0.3)
    assert outcome.stdout == "so far\n"
    assert outcome.stopped == "wall time"
    assert outcome.exit_code is None


def test_much_output() -> None:
    outcome = run("for n in range(300_000): print(n, 'abcdefgh')", output=8 << 20)
    assert outcome.ok
    assert outcome.stdout.count("\n") == 300_000
    cut = run("print('x' * 100)", output=10)
    assert cut.stdout == "x" * 10
    assert cut.stopped == "output"


def test_random_numbers_differ_and_hashes_do_not() -> None:
    code = "import random, numpy\nprint(random.random(), numpy.random.random(), hash('a'))"
    first, second = run(code).stdout.split(), run(code).stdout.split()
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert first[2] == second[2]


def test_limits_may_be_large() -> None:
    most = Limits(wall=4e18, cpu=4e18, memory=1 << 61, output=1 << 61, scratch=1 << 61)
    assert asyncio.run(run_python("print(1)", limits=most)).stdout == "1\n"
    assert asyncio.run(run_smt("(check-sat)", limits=most)).stdout == "sat\n"


def test_a_directory_with_the_name_of_a_package_stays_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in PACKAGES:
        (tmp_path / name).mkdir()
    assert not any(Path(place).is_relative_to(tmp_path) for place in places.packages.__wrapped__().values())


@pytest.mark.parametrize("name", ["wall", "cpu", "memory", "output", "scratch"])
def test_limits_are_above_nothing(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        run("pass", **{name: 0})
