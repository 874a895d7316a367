"""What it costs to start: `import shoal` and `shoal --help`, beside an interpreter that does nothing.

python -m benchmarks.imports [ROUNDS]
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

NOTHING, IMPORT = "pass", "import shoal"
COUNT = "import sys; before = set(sys.modules); import shoal; print(len(set(sys.modules) - before))"


def milliseconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    script = shutil.which("shoal", path=str(Path(sys.executable).parent))
    commands = {"python": [sys.executable, "-c", NOTHING], "import": [sys.executable, "-c", IMPORT]}
    if script:
        commands["help"] = [script, "--help"]
    for command in commands.values():
        milliseconds(command)  # once unmeasured: byte code and file cache
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):  # in turns, so that a busy moment befalls all of them
        for name, command in commands.items():
            times[name].append(milliseconds(command))
    median = {name: statistics.median(seen) for name, seen in times.items()}
    modules = int(subprocess.run([sys.executable, "-c", COUNT], check=True, capture_output=True, text=True).stdout)
    row = {"benchmark": "imports", "python_ms": round(median["python"], 1)}
    print(json.dumps({**row, "import_ms": round(median["import"] - median["python"], 1), "modules": modules}))
    if script:
        ratio = round(median["help"] / median["python"], 2)
        print(json.dumps({**row, "help_ms": round(median["help"], 1), "help_to_python": ratio}))


if __name__ == "__main__":
    main()
