"""`shoal run --batch-api` and `shoal waves`, as commands of their own process."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.backends.faulty_batches import Order, paid
from tests.batch.waving import draws_paid, same, serving
from tests.cli.shell import Shell, command, done
from tests.scripting import run

from shoal.backends.waves import WaveStore

SCRIPT = """
def answer(request):
    said = request.messages[-1].text
    return f"I read {len(said)} letters. The answer is {sum(map(ord, said)) % 7}."
"""
PROGRAM = """
import shoal

@shoal.program
async def two_steps(q):
    first = await shoal.llm.generate_text(f"Think of {q}")
    return await shoal.llm.generate_text(f"{first} So?", temperature=0.5)
"""


def written(base_url: str, key: str = "secret-of-mine") -> None:
    Path("rows.jsonl").write_text("".join(json.dumps({"q": f"question {i}"}) + "\n" for i in range(9)))
    Path("program.py").write_text(PROGRAM)
    Path("shoal.toml").write_text(f'[endpoints.lab]\nbase_url = "{base_url}"\napi_key = "{key}"\n')


def write_script() -> None:
    Path("script.py").write_text(SCRIPT)


def told(path: str) -> tuple[list[Any], Counter[str]]:
    """The records without what each cost, and what all did: which of those who share a draw pays for it is chance."""
    records = [json.loads(line) for line in read(path).splitlines()]
    return records, sum((Counter(record.pop("usage")) for record in records), Counter())


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def everything_in(directory: str) -> bytes:
    return b"".join(path.read_bytes() for path in Path(directory).rglob("*") if path.is_file())


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "asked",
    [["-p", "{q}", "-t", "self_consistency(n=4)"], ["--program", "program.py:two_steps"]],
    ids=["self_consistency", "program"],
)
def test_the_output_is_that_of_the_live_run_through_shoals_own_server(asked: list[str]) -> None:
    async def main() -> None:
        write_script()
        server = await command("serve", "-m", "scripted/script.py:answer", "--port", "0", "--quiet")
        assert server.stdout is not None
        try:
            await server.stdout.readline()
            written((await server.stdout.readline()).decode().split()[-1])
            whole = ["run", "rows.jsonl", "-m", "lab/scripted/script.py:answer", "--no-cache", *asked]
            code, _, err = await done(*whole, "--run-dir", "waves", "--batch-api")
            assert code == 0, err
            assert "9 requests sent as batch_" in err
            assert "completed, 9 of 9 answered" in err
            assert (await done(*whole, "--run-dir", "live", "--quiet"))[0] == 0
            found = told if "--program" in asked else read  # two rows of the program share a draw
            assert found("waves/output.jsonl") == found("live/output.jsonl")
            _, out, _ = await done("waves", "waves", "--json")
            assert [wave["requests"] for wave in json.loads(out)] == (
                [9, 7] if "--program" in asked else [9]
            )  # two share
        finally:
            server.kill()
            await server.communicate()

    run(main())


async def interrupted(server: Any, *arguments: str) -> tuple[int | None, str]:
    """A run that gets Ctrl-C while its wave is with the provider."""
    process = await command("run", "rows.jsonl", "-p", "{q}", "-m", "lab/m", "--run-dir", "r", *arguments)
    await server.until("GET /v1/batches/{id}", 2)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    return process.returncode, err.decode()


@pytest.mark.timeout(120)
def test_ctrl_c_leaves_waves_with_the_provider_and_the_same_command_collects_them() -> None:
    async def main() -> None:
        async with serving(same) as server:
            written(server.base_url, server.key)
            server.order(Order(hold=True, done=4))
            code, err = await interrupted(server, "--batch-api")
            assert code == 130
            assert "stopping: waves stay with the provider, live calls and downloads under way are let finish" in err
            assert "1 wave with 9 requests left with the provider: the same command collects them" in err
            assert "`shoal waves r --cancel` cancels them" in err
            _, out, _ = await done("waves", "r")
            assert "in_progress" in out
            code, _, err = await done("run", "rows.jsonl", "-p", "{q}", "-m", "lab/m", "--run-dir", "r")
            assert code == 2
            assert "r waits for 9 calls sent by the batch API; add --batch-api to collect them" in err
            _, _, err = await done("merge", "r", "--run-dir", "whole", "--quiet")
            assert "9 calls of r are out by the batch API: collect them there first" in err
            server.release()
            code, _, err = await done("run", "rows.jsonl", "-p", "{q}", "-m", "lab/m", "--run-dir", "r", "--batch-api")
            assert code == 0, err
            assert set(draws_paid().values()) == {1}
            assert len(read("r/output.jsonl").splitlines()) == 9

    run(main())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("route", ["GET /v1/batches", "GET /v1/files/{id}/content"])
def test_a_second_ctrl_c_ends_a_run_whose_provider_does_not_answer(route: str) -> None:
    async def main() -> None:
        async with serving(same) as server:
            written(server.base_url, server.key)
            server.disturb(route, *["hold-after"] * 9)
            whole = ["run", "rows.jsonl", "-p", "{q}", "-m", "lab/m", "--run-dir", "r", "--batch-api"]
            process = await command(*whole)
            await server.until(route)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert b"stopping" in b"".join([await process.stderr.readline() for _ in range(1 + ("files" in route))])
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
            assert process.returncode == 130, err
            server.let_go()
            code, _, said = await done(*whole)
            assert code == 0, said
            assert set(draws_paid().values()) == {1}

    run(main())


@pytest.mark.timeout(120)
def test_waves_are_cancelled_and_what_was_done_is_kept() -> None:
    async def main() -> None:
        async with serving(same) as server:
            server.key = "secret-of-mine"
            written(server.base_url)
            server.order(Order(hold=True, done=4))
            await interrupted(server, "--batch-api", "--quiet")
            code, out, err = await done("waves", "r", "--cancel", "--json")
            assert (code, json.loads(out)[0]["status"]) == (0, "cancelling"), err
            code, out, err = await done(
                *("run", "rows.jsonl", "-p", "{q}", "-m", "lab/m", "--run-dir", "r", "--batch-api", "--json")
            )
            assert code == 0, err
            assert json.loads(out)["calls"] == 9
            assert set(draws_paid().values()) == {1}
            assert [batch["status"] for batch in server.batches] == ["cancelled", "completed"]
            assert b"secret-of-mine" not in everything_in("r")

    run(main())


def test_a_wave_that_cannot_be_cancelled_keeps_no_other_from_it() -> None:
    async def main() -> None:
        async with serving(same) as server:
            written(server.base_url, server.key)
            server.order(Order(hold=True))
            await interrupted(server, "--batch-api")
            gone = WaveStore(Path("r"))
            (wave,) = gone.waves()
            await gone.keep(structs.replace(wave, number=0, id="gone"), batch_id="batch_gone")
            gone.close()
            code, out, err = await done("waves", "r", "--cancel")
            assert code == 1, err
            assert "not cancelled: lab: 404" in out
            assert "404" in err
            assert [batch["status"] for batch in server.batches] == ["cancelling"]

    run(main())


@pytest.mark.timeout(120)
def test_waves_are_not_cancelled_at_another_address_and_may_be_forgotten() -> None:
    async def main() -> None:
        async with serving(same) as server:
            written(server.base_url, server.key)
            server.order(Order(hold=True))
            await interrupted(server, "--batch-api")
            written("http://127.0.0.1:9/v1")
            code, _, err = await done("waves", "r", "--cancel")
            assert code == 2
            assert "lab/m is at another address than when wave 1 was sent; nothing was asked" in err
            code, out, _ = await done("waves", "r", "--forget", "--json")
            assert (code, json.loads(out)[0]["state"]) == (0, "dropped")
            written(server.base_url, server.key)
            code, _, err = await done("run", "rows.jsonl", "-p", "{q}", "-m", "lab/m", "--run-dir", "r", "--quiet")
            assert code == 0, err
            assert [each.batch for each in paid(Path("provider"))] == [None] * 9

    run(main())


def test_what_cannot_go_by_a_batch_api_is_refused(shoal: Shell) -> None:
    written("http://127.0.0.1:9/v1")
    write_script()
    asked = ["run", "rows.jsonl", "-p", "{q}"]
    code, _, err = shoal(*asked, "-m", "scripted/script.py:answer", "--batch-api")
    assert code == 2
    assert "--batch-api needs a server that has /v1/files and /v1/batches; scripted/script.py:answer is none" in err
    code, _, err = shoal(*asked, "-m", "lab/m", "--tail-live", "3")
    assert (code, "--tail-live is for --batch-api" in err) == (2, True)
    code, _, err = shoal(*asked, "-m", "lab/m", "--batch-api", "--batch-window", "soon")
    assert (code, "completion window 'soon': write 24h" in err) == (2, True)
    code, _, err = shoal(*asked, "-m", "lab/m", "--batch-api", "--replay")
    assert (code, "--replay asks nothing; leave --batch-api out" in err) == (2, True)
    Path("shoal.toml").write_text(Path("shoal.toml").read_text() + '\n[models.both]\nendpoints = ["lab/m", "lab/o"]\n')
    code, _, err = shoal(*asked, "-m", "both", "--batch-api")
    assert (code, "--batch-api is for one endpoint; both is several: name one of them" in err) == (2, True)
    code, _, err = shoal("waves", "r")
    assert (code, "r: no run that was made with --batch-api" in err) == (2, True)


def test_what_a_provider_says_of_a_wave_is_shown_and_nothing_else(shoal: Shell) -> None:
    async def keep(number: int, expires_at: float) -> None:
        store = WaveStore(Path("r"))
        wave = store.new(str(number), "identity", "lab/m", "/v1/chat/completions")
        said = {"status": "[/done]\x1b[2J", "note": "400 [/a] [red]no"}
        await store.keep(wave, state="settled", expires_at=expires_at, **said)
        store.close()

    for number, expires_at in enumerate((1.8e9, 1.8e12, 1e300, -1e18)):
        run(keep(number, expires_at))
    code, out, err = shoal("waves", "r")
    assert code == 0, err
    assert out.count("400 [/a] [red]no") == out.count("[/done]␛[2J") == 4
    assert "2027-01-15" in out
