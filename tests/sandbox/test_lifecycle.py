"""Starting, dying, cancelling, many at once: nothing is left behind and nobody else is harmed."""

import asyncio
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.errors import SandboxUnavailable, UsageError
from shoal.sandbox import Limits, Outcome, check, places, run_python, run_smt, running, tiers
from shoal.sandbox.keeper import Zygote

LONG = Limits(wall=60, cpu=60)


def zygote() -> Zygote:
    return running._tiers().choose().zygote()


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == pid and words[0] != "Z":
            child = int(path.parent.name)
            found += [child, *descendants(child)]
    return found


def until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def idle() -> int:
    """How many processes belong to the zygote when it runs nothing."""
    asyncio.run(run_python("pass"))
    return len(descendants(zygote().pid))


def test_cancelling_ends_the_program_at_once(tier: str) -> None:
    at_rest = idle()

    async def main() -> None:
        task = asyncio.create_task(run_python("while True: pass", limits=LONG))
        while len(descendants(zygote().pid)) == at_rest:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())
    until(lambda: len(descendants(zygote().pid)) == at_rest, 5)


def test_cancelling_where_a_fork_holds_its_files(tier: str) -> None:
    at_rest = idle()
    kept, told = os.pipe()

    async def main() -> int:
        task = asyncio.create_task(run_python("while True: pass", limits=LONG))
        while len(descendants(zygote().pid)) == at_rest:
            await asyncio.sleep(0)
        fork = os.fork()
        if fork == 0:
            os.close(told)
            os.read(kept, 1)  # until the test is over
            os._exit(0)
        task.cancel()
        await asyncio.wait([task])
        return fork

    fork = asyncio.run(main())
    try:
        until(lambda: len(descendants(zygote().pid)) == at_rest, 5)
        running._tiers().choose().end()
    finally:
        os.close(told)
        os.waitpid(fork, 0)
        os.close(kept)


def test_many_at_once_and_some_cancelled(tier: str) -> None:
    async def main() -> list[Outcome | BaseException]:
        tasks = [asyncio.create_task(run_python(f"print({n})")) for n in range(50)]
        waiting = [asyncio.create_task(run_python("while True: pass", limits=LONG)) for _ in range(20)]
        done = asyncio.gather(*tasks)
        while not tasks[5].done():
            await asyncio.sleep(0.001)
        for task in waiting:
            task.cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in ended)
        return list(await done)

    outcomes = asyncio.run(main())
    assert [outcome.stdout for outcome in outcomes if isinstance(outcome, Outcome)] == [f"{n}\n" for n in range(50)]


def test_two_event_loops_share_a_zygote(tier: str) -> None:
    before = zygote().pid
    outcomes: list[Outcome] = []

    def work() -> None:
        async def many() -> None:
            outcomes.extend(await asyncio.gather(*(run_python("print(6 * 7)") for _ in range(10))))

        asyncio.run(many())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.stdout for outcome in outcomes] == ["42\n"] * 30
    assert zygote().pid == before


def test_a_zygote_that_died_is_started_anew(tier: str) -> None:
    first = zygote().pid
    os.kill(first, signal.SIGKILL)
    assert asyncio.run(run_python("print(1)")).stdout == "1\n"
    assert zygote().pid != first


def test_a_job_whose_zygote_dies_is_run_again(tier: str) -> None:
    at_rest = idle()

    async def main() -> Outcome:
        task = asyncio.create_task(run_python("import time; time.sleep(0.2); print('done')"))
        while len(descendants(zygote().pid)) == at_rest:
            await asyncio.sleep(0)
        os.kill(zygote().pid, signal.SIGKILL)
        return await task

    assert asyncio.run(main()).stdout == "done\n"


def test_a_zygote_that_dies_twice_is_told(tier: str) -> None:
    at_rest = idle()

    async def main() -> None:
        task = asyncio.create_task(run_python("import time; time.sleep(20)", limits=LONG))
        for _ in range(2):
            while zygote().ended or len(descendants(zygote().pid)) <= at_rest:
                await asyncio.sleep(0)
            dying = zygote()
            os.kill(dying.pid, signal.SIGKILL)
            while not dying.ended:
                await asyncio.sleep(0)
        with pytest.raises(SandboxUnavailable, match="died twice"):
            await task

    asyncio.run(main())


OWNER = """
import asyncio, os
from shoal.sandbox import Limits, run_python
async def main():
    await run_python("pass")
    print("ready", flush=True)
    await asyncio.gather(*(run_python(code, limits=Limits(wall=60, cpu=60))
                           for code in ("while True: pass", "import time; time.sleep(60)")))
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_owner_dies(tier: str, number: int, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        least = {"bubblewrap": 5, "landlock": 3}[tier]
        if len(os.sched_getaffinity(0)) == 1:
            least -= 1
        until(lambda: len(descendants(owner.pid)) >= least)
        family = descendants(owner.pid)
        owner.send_signal(number)
        owner.wait()
        until(lambda: not any(alive(pid) for pid in family))
    until(lambda: not list(tmp_path.glob("shoal-*")))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_fork_of_the_owner_has_its_own(tier: str) -> None:
    code = """
import asyncio, os, warnings
warnings.simplefilter("ignore")
from shoal.sandbox import run_python
print(asyncio.run(run_python("print(1)")).stdout, end="", flush=True)
if os.fork() == 0:
    print(asyncio.run(run_python("print(2)")).stdout, end="", flush=True)
    raise SystemExit
os.wait()
print(asyncio.run(run_python("print(3)")).stdout, end="", flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert ended.stdout == "1\n2\n3\n", ended.stderr
    assert ended.stderr == ""


def test_an_owner_with_many_open_files(tier: str) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 8192:
        pytest.skip("so many files cannot be open here")
    code = """
import asyncio, os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(5000)]
from shoal.sandbox import run_python
looks = "import os\\nfor n in range(3, 8192):\\n  try: print(n, os.fstat(n))\\n  except OSError: pass"
print(asyncio.run(run_python(looks)))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert ended.stdout.startswith("Outcome(stdout='', stderr='', exit_code=0"), ended


def test_no_warnings_at_the_end(tier: str) -> None:
    code = "import asyncio; from shoal.sandbox import run_python; print(asyncio.run(run_python('print(1)')).stdout)"
    ended = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "1"
    assert ended.stderr == ""


# Where it cannot be had


def test_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SANDBOX", "off")
    for unsafe in (False, True):
        with pytest.raises(SandboxUnavailable, match="cannot be confined here, so it is not run: SHOAL_SANDBOX=off"):
            asyncio.run(run_python("print(1)", unsafe=unsafe))
    with pytest.raises(SandboxUnavailable):
        asyncio.run(run_smt("(check-sat)"))
    report = check()
    assert not report.usable
    assert "SHOAL_SANDBOX=off" in report.missing


def test_a_setting_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_SANDBOX", "docker")
    with pytest.raises(UsageError, match="bubblewrap, landlock, off"):
        check()


def test_without_bwrap_the_second_tier_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "bubblewrap", lambda: "")
    found = tiers.Tiers("")
    report = found.report()
    if not report.usable:
        pytest.skip(report.missing)
    assert report.isolation == "landlock+seccomp"
    assert any("apt install bubblewrap" in layer.why for layer in report.layers if not layer.holds)
    assert found.chosen is not None
    found.chosen.end()


def test_a_bwrap_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(places, "bubblewrap", lambda: str(broken))
    with pytest.raises(SandboxUnavailable, match="No permissions to create a new namespace"):
        tiers.Tiers("bubblewrap").choose()
    broken.write_text("not a program")
    with pytest.raises(SandboxUnavailable, match="does not start"):
        tiers.Tiers("bubblewrap").choose()


@pytest.mark.parametrize(
    ("probe", "why"),
    [
        ('print(\'{"tried": 2, "done": ["fork"]}\')', "a confined program could: fork"),
        ("raise OSError('no Landlock')", "OSError: no Landlock"),
        ("", "the probe said nothing"),
        ("print('[]')", r"\[\]"),
    ],
)
def test_a_tier_that_lets_an_attack_through_is_not_used(
    tier: str, probe: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = tmp_path / "child"
    shutil.copytree(places.CHILD, child)
    (child / "probe.py").write_text(probe)
    monkeypatch.setattr(places, "CHILD", child)
    with pytest.raises(SandboxUnavailable, match=why):
        tiers.Tiers(tier).choose()


def test_the_probe_misses_the_filter_of_system_calls(
    tier: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = tmp_path / "child"
    shutil.copytree(places.CHILD, child)
    (child / "seccomp.py").write_text("def install(*, may_exec): pass")
    monkeypatch.setattr(places, "CHILD", child)
    unfiltered = tiers.Tier(tier)
    found = unfiltered.probe().why.partition(": ")[2].split(", ")
    unfiltered.end()
    assert {
        "fork",
        "clone",
        "clone3",
        "mount",
        "set up io_uring",
        "load BPF",
        "open by handle",
        "make shared memory",
    } <= set(found)


def test_no_place_for_temporary_files(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(SandboxUnavailable, match="No space left on device"):
        tiers.Tiers(tier).choose()


def test_unsafe_runs_in_a_plain_child() -> None:
    outcome = asyncio.run(run_python("import os; print(dict(os.environ), os.fork() >= 0)", unsafe=True))
    assert outcome.ok
    assert outcome.stdout.startswith("{} True\n")
    assert outcome.isolation == "none (unsafe)"
    held = asyncio.run(
        run_python("import os, time\nif os.fork() == 0: time.sleep(60)\nprint(1)", unsafe=True, limits=Limits(wall=5))
    )
    assert held.stdout == "1\n"
    assert asyncio.run(run_python("while True: pass", unsafe=True, limits=Limits(wall=0.3))).stopped == "wall time"
