"""All benchmarks, one after the other: python -m benchmarks."""

import subprocess
import sys

if __name__ == "__main__":
    names = (
        "imports",
        "overhead",
        "programs",
        "adaptive",
        "evolution",
        "embedded",
        "sandbox",
        "technique_costs",
        "ray_data",
        "faults",
        "million",
        "proxies",
        "clients",
    )
    failed = [name for name in names if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
