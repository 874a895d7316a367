"""What confinement costs a program, beside a plain `python -c` that confines nothing.

python -m benchmarks.sandbox [ROUNDS]
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time

from shoal.sandbox import check, run_python, run_smt

Z3 = "import z3; x = z3.Int('x'); s = z3.Solver(); s.add(x > 3, x < 5); print(s.check(), s.model())"
SYMPY = "import sympy; x = sympy.Symbol('x'); print(sympy.solve(x**2 - 2))"
SMT = "(declare-const x Int)(assert (and (> x 3) (< x 5)))(check-sat)(get-model)"
PLAIN = {"pass": "pass", "import z3": "import z3", "z3": Z3, "sympy": SYMPY}
AT_ONCE = 100


def plain(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)
    return (time.perf_counter() - start) * 1000


async def confined(code: str) -> float:
    start = time.perf_counter()
    outcome = await (run_smt(code) if code.startswith("(") else run_python(code))
    assert outcome.ok, outcome.error
    return (time.perf_counter() - start) * 1000


async def measure(rounds: int) -> None:
    row = {"benchmark": "sandbox", "isolation": check().isolation}
    kinds = {**PLAIN, "smt": SMT}
    first = {name: round(await confined(code), 1) for name, code in kinds.items()}
    print(json.dumps({**row, "first_ms": first}))
    times: dict[str, list[float]] = {}
    for _ in range(rounds):  # in turns, so that a busy moment befalls all of them
        for name, code in kinds.items():
            times.setdefault(f"confined {name}", []).append(await confined(code))
            if name in PLAIN:
                times.setdefault(f"plain {name}", []).append(plain(code))
    median = {name: statistics.median(seen) for name, seen in times.items()}
    for name in kinds:
        here = {"program": name, "confined_ms": round(median[f"confined {name}"], 1)}
        if name in PLAIN:
            beside = median[f"plain {name}"]
            here |= {"plain_ms": round(beside, 1), "confined_to_plain": round(median[f"confined {name}"] / beside, 2)}
        print(json.dumps({**row, **here}))
    start = time.perf_counter()
    await asyncio.gather(*(confined("pass") for _ in range(AT_ONCE)))
    print(json.dumps({**row, "at_once": AT_ONCE, "runs_per_s": round(AT_ONCE / (time.perf_counter() - start))}))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    for tier in ("bubblewrap", "landlock"):
        os.environ["SHOAL_SANDBOX"] = tier
        start = time.perf_counter()
        report = check()
        took = round((time.perf_counter() - start) * 1000, 1)
        row = {"benchmark": "sandbox", "isolation": report.isolation or tier, "start_and_probe_ms": took}
        print(json.dumps(row if report.usable else {**row, "unavailable": report.missing}))
        if report.usable:
            asyncio.run(measure(rounds))


if __name__ == "__main__":
    main()
