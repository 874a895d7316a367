"""What a million rows x self_consistency(8) takes: tokens, GPU-hours, days, dollars, disk, memory, seconds to resume.

python -m benchmarks.million              the table, from measured figures and stated assumptions
python -m benchmarks.million --measure    measures shoal's own figures again first: 10,000 rows on the mock server

Options stand in for each assumption (`--help`). A figure of shoal's own is measured; one of GPUs and providers is
somebody else's and said with its source; the rest is multiplication.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.mock import mock_server

GPUS = (1, 4, 16)


@dataclass(frozen=True)
class Shoal:
    """Our own costs, of `shoal run -t self_consistency(n=8)`: measured with 125,000 rows (1,000,008 draws) in one run.

    Replies of 270 characters, prompts of 420; one process on a core that others used too.
    """

    cpu_ms_per_row: float = 151.5 / 125  # HTTP, votes and journal included; the journal's own thread too
    rss_mb: float = 165.0  # 157 MB after 10,000 rows, 160 MB after 125,000; a resumed run adds 0.1 KB a finished row
    journal_bytes_per_row: float = 618_934_272 / 125_001
    output_bytes_per_row: float = 114_142_342 / 125_001
    draw_text_bytes: float = 270.0
    resume_s_per_million_draws: float = 3.0  # start, finished rows found, output written again
    draws_per_row: int = 8


@dataclass(frozen=True)
class Assumed:
    """The work, and what others say they can do and charge."""

    rows: int = 1_000_000
    samples: int = 8
    prompt_tokens: int = 500
    reply_tokens: int = 200
    # One GPU with Llama 3.1 8B, output tokens a second. Low: `vllm bench serve`, 1,000 ShareGPT conversations of 230
    # tokens in and 203 out, in vLLM's pull request 18566, which does not name the GPU. High: NVIDIA's page of NIM
    # benchmarks, NIM 1.8.0, the most of its first table for the model (200 at once). The cost model of replica_engine,
    # an H100 by its data sheet, gives 9,100 with votes of 8 on prompts of 500 tokens, between them.
    low: float = 6_583.0
    high: float = 13_348.0
    gpu_hour: float = 3.0  # dollars; on-demand H100s are offered from 2 to 7
    # Dollars a million tokens: OpenAI's gpt-4o-mini. Its batch API takes half.
    input_price: float = 0.15
    output_price: float = 0.60
    batch_share: float = 0.5


def table(ours: Shoal, assumed: Assumed) -> dict[str, Any]:
    """The calculation. Prompts are counted once a row where `n` fuses draws, else once a draw."""
    replies = assumed.rows * assumed.samples * assumed.reply_tokens
    fused = assumed.rows * assumed.prompt_tokens
    hours = {name: replies / rate / 3600 for name, rate in (("low", assumed.low), ("high", assumed.high))}
    live = {
        name: prompts / 1e6 * assumed.input_price + replies / 1e6 * assumed.output_price
        for name, prompts in (("n=8", fused), ("a request a draw", fused * assumed.samples))
    }
    draws = assumed.rows * assumed.samples
    per_row = assumed.samples / ours.draws_per_row
    longer = assumed.reply_tokens * 4 - ours.draw_text_bytes  # replies here are longer than those measured
    journal = assumed.rows * (ours.journal_bytes_per_row * per_row + longer * (assumed.samples + 1))
    return {
        "draws": draws,
        "prompt_tokens": {"n=8": fused, "a request a draw": fused * assumed.samples},
        "reply_tokens": replies,
        "gpu_hours": {name: round(each) for name, each in hours.items()},
        "gpu_dollars": {name: round(each * assumed.gpu_hour) for name, each in hours.items()},
        "wall_hours": {f"{gpus} GPU": [round(hours["high"] / gpus, 1), round(hours["low"] / gpus, 1)] for gpus in GPUS},
        "hosted_dollars": {name: round(each) for name, each in live.items()},
        "batch_dollars": {name: round(each * assumed.batch_share) for name, each in live.items()},
        "journal_gb": round(journal / 1e9, 1),
        "output_gb": round(assumed.rows * (ours.output_bytes_per_row + longer) / 1e9, 1),
        "shoal_cpu_hours": round(assumed.rows * ours.cpu_ms_per_row * per_row / 3.6e6, 2),
        "shoal_rows_per_s": round(1000 / ours.cpu_ms_per_row / per_row),
        "gpus_one_process_feeds": round(
            1000 / ours.cpu_ms_per_row / per_row / (assumed.high / assumed.samples / assumed.reply_tokens)
        ),
        "shoal_rss_mb": ours.rss_mb,
        "resume_s": round(draws / 1e6 * ours.resume_s_per_million_draws),
    }


def measured(rows: int) -> Shoal:
    """Our own costs with so many rows, in a process of their own; but for resuming, which is measured with many."""
    with mock_server(delay_ms=50) as mock, tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        endpoint = f'[endpoints.lab]\nbase_url = "{mock.base_url}"\napi_key = "x"\n'
        (place / "shoal.toml").write_text(endpoint)
        cpu, rss = _run(place, rows)
        sizes = [(place / "run" / name).stat().st_size / rows for name in ("journal.sqlite", "output.jsonl")]
    return Shoal(cpu / rows * 1000, rss, *sizes)


def _run(place: Path, rows: int) -> tuple[float, float]:
    """CPU seconds, and peak RSS in MB."""
    text = "Think about it with care and say how many boats there are. " * 6
    with (place / "rows.jsonl").open("w") as out:
        for i in range(rows):
            prompt = f"Row {i}: a harbour has {i % 97} quays and at each lie {i % 13} boats. {text}"
            out.write(json.dumps({"prompt": prompt}) + "\n")
    command = [sys.executable, "-m", "shoal", "run", "rows.jsonl", "-m", "lab/m", "-t", "self_consistency(n=8)"]
    process = subprocess.Popen(
        [*command, "--no-cache", "--quiet", "--run-dir", "run"], cwd=place, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"shoal run ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--measured-rows", type=int, default=10_000)
    for name, value in vars(Assumed()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    measure, rows = given.pop("measure"), given.pop("measured_rows")
    ours, assumed = measured(rows) if measure else Shoal(), Assumed(**given)
    for name, value in (vars(ours) | vars(assumed) | table(ours, assumed)).items():
        print(f"{name:28} {value:,.6g}" if isinstance(value, int | float) else f"{name:28} {json.dumps(value)}")


if __name__ == "__main__":
    main()
