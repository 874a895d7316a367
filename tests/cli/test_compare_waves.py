"""`shoal compare --batch-api`: through shoal's own server, stopped and gone on with, planned, refused in one line."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.backends.faulty_batches import Order
from tests.batch.waving import draws_paid, live_paid, serving
from tests.cli.shell import Shell, command, done
from tests.scripting import run

SCRIPT = """
import random

def answer(request):
    chance = random.Random(f"{request.text} {request.sample}")
    return f"The answer is {len(request.text) + (chance.random() > 0.7) * chance.randint(1, 3)}."
"""
CONFIG = """
[endpoints.lab]
base_url = "{url}"
api_key = "key"

[prices."lab/{model}"]
input = 10.0
output = 20.0
"""
ROWS = 9
ASKED = ("compare", "rows.jsonl", "-p", "{q}", "--answer", "gold", "--scorer", "number")
LAB = (*ASKED, "-m", "lab/m", "-t", "self_consistency(n=3)", "-t", "critique(rounds=1)")


@pytest.fixture(autouse=True)
def files(at_home: Path) -> None:
    rows = [{"q": f"question {'x' * (i % 4)} {i}", "gold": 10 + i % 4} for i in range(ROWS)]
    (at_home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (at_home / "script.py").write_text(SCRIPT)
    configured("http://127.0.0.1:9/v1", "m")


def configured(url: str, model: str) -> None:
    Path("shoal.toml").write_text(CONFIG.format(url=url, model=model))


def reply(body: dict[str, Any], choice: int) -> str:
    return f"The answer is {sum(map(ord, body['messages'][-1]['content'])) % 4 + 10}."


def without(comparison: dict[str, Any], *left_out: str) -> dict[str, Any]:
    """A comparison but for what waves change, and when it was made."""
    arms = [{name: value for name, value in arm.items() if name not in left_out} for arm in comparison["arms"]]
    return {**comparison, "arms": arms, "made": "", "notes": []}


@pytest.mark.timeout(240)
def test_the_comparison_is_the_live_one_through_shoals_own_server() -> None:
    async def main() -> None:
        server = await command("serve", "-m", "scripted/script.py:answer", "--port", "0", "--quiet")
        assert server.stdout is not None
        try:
            await server.stdout.readline()
            configured((await server.stdout.readline()).decode().split()[-1], "scripted/script.py:answer")
            # Arms without a question in common: what a server answers to draws of one depends on how they travel.
            arms = ("-t", "self_consistency(n=1..4)", "-t", "critique(rounds=1)@re_reading", "--no-plain")
            asked = (*ASKED, "-m", "lab/scripted/script.py:answer", *arms)
            code, out, err = await done(*asked, "--batch-api", "--plan", "--json")
            assert code == 0, err
            planned = json.loads(out)["total"]
            code, _, err = await done(*asked, "--batch-api", "--report-dir", "waves")
            assert code == 0, err
            # The questions with all draws of each, and those of the other arm; then critique's two steps.
            assert f"wave 1: {2 * ROWS} requests sent as batch_" in err
            assert f"wave 1: completed, {2 * ROWS} of {2 * ROWS} answered" in err
            assert "asked by the batch API: dollars are as if all calls to" in " ".join(err.split())
            code, out, err = await done(*asked, "--report-dir", "live", "--json")
            assert code == 0, err
            live, by_batch = json.loads(out), json.loads(read("waves/comparison.json"))
            changed = ("seconds", "dollars", "paid_tokens", "wire_requests")
            assert without(by_batch, *changed) == without(live, *changed)
            for half, whole in zip(by_batch["arms"], live["arms"], strict=True):
                assert half["dollars"] == pytest.approx(whole["dollars"] / 2)
                assert half["seconds"] is None
            assert "seconds a row" in read("live/report.html")
            assert "seconds a row" not in read("waves/report.html")
            assert "asked by the batch API" in read("waves/report.html")
            _, out, _ = await done("waves", "waves", "--json")
            waves = json.loads(out)
            assert {wave["state"] for wave in waves} == {"settled"}
            assert len(waves) == planned["waves"]["least"] == planned["waves"]["most"] == 3
            assert sum(wave["draws"] for wave in waves) == planned["calls"]["most"]
        finally:
            server.kill()
            await server.communicate()

    run(main())


def read(path: str) -> str:
    return Path(path).read_text()


@pytest.mark.timeout(120)
def test_ctrl_c_leaves_waves_with_the_provider_and_the_same_command_collects_them() -> None:
    async def main() -> None:
        async with serving(reply) as server:
            configured(server.base_url, "m")
            server.order(Order(hold=True, done=4))
            asked = (*LAB, "--report-dir", "r")
            process = await command(*asked, "--batch-api")
            await server.until("GET /v1/batches/{id}", 2)
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
            assert process.returncode == 130
            assert "interrupted; the same command resumes in r" in err.decode()
            assert f"1 wave with {ROWS} requests left with the provider: the same command collects them" in err.decode()
            code, _, said = await done(*asked)
            assert code == 2
            assert f"r waits for {ROWS} calls sent by the batch API; add --batch-api to collect them" in said
            code, _, said = await done(*asked, "--batch-api", "--plan", "--pilot", "4")
            assert code == 2
            assert f"r waits for {ROWS} calls sent by the batch API; collect them, or leave --pilot out" in said
            code, out, _ = await done("waves", "r", "--json")
            assert [wave["status"] for wave in json.loads(out)] == ["in_progress"]
            server.release()
            code, _, said = await done(*asked, "--batch-api", "--quiet")
            assert code == 0, said
            assert live_paid() == 0
            assert {
                n for question, n in draws_paid().items() if question.startswith("question") and "\n" not in question
            } == {4}

    run(main())


def test_a_plan_is_at_the_batch_price_and_says_how_many_waves(shoal: Shell) -> None:
    def told(*options: str) -> Any:
        code, out, err = shoal(*LAB, "--max-tokens", "20", "--plan", "--json", *options)
        assert (code, err) == (0, "")
        return json.loads(out)

    live, by_batch = told(), told("--batch-api")
    assert by_batch["total"]["waves"]["most"] == 3
    assert by_batch["total"]["live_dollars"] == live["total"]["dollars"]
    assert by_batch["total"]["calls"] == live["total"]["calls"]
    for half, whole in [
        (by_batch["total"], live["total"]),
        *((one["plan"], other["plan"]) for one, other in zip(by_batch["arms"], live["arms"], strict=True)),
    ]:
        for end in ("least", "most"):
            assert half["dollars"][end] == pytest.approx(whole["dollars"][end] / 2)
    # Of the rows that may sleep each of three arms has a third.
    assert told("--batch-api", "--batch-rows", "9")["total"]["waves"]["most"] == 3 * 3
    assert told("--batch-api", "--tail-live", "1000")["total"]["waves"]["most"] == 0
    code, out, _ = shoal(*LAB, "--batch-api", "--plan")
    assert code == 0
    assert "what the same would cost without --batch-api" in out


def test_a_plan_for_an_equal_budget_counts_the_waves_of_the_sizes_that_are_tried(shoal: Shell) -> None:
    asked = (
        *ASKED,
        "-m",
        "lab/m",
        "-t",
        "self_consistency(n=2)",
        "--no-plain",
        "--max-tokens",
        "20",
        "--plan",
        "--json",
    )
    code, out, err = shoal(*asked, "--equal-budget", "calls=4", "--batch-api")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["sizing"]["tries"]["least"] > 1
    assert told["total"]["waves"]["least"] == 1 + told["sizing"]["tries"]["least"]
    dollars = [
        json.loads(shoal(*asked, "--equal-budget", f"dollars={amount}", *by)[1])
        for amount, by in (("0.002", ("--batch-api",)), ("0.004", ()), ("0.002", ()))
    ]
    sizes = [each["sizing"]["sizes"] for each in dollars]
    assert sizes[0] == sizes[1] != sizes[2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-m", "scripted/script.py:answer", "--batch-api"), "--batch-api needs a server that has /v1/files and"),
        (("-m", "lab/m", "-m", "local", "--batch-api"), "--batch-api needs a server that has /v1/files and"),
        (("-m", "lab/m", "--batch-api", "--replay"), "--replay asks nothing; leave --batch-api out"),
        (("-m", "lab/m", "--tail-live", "3"), "--tail-live is for --batch-api"),
        (("-m", "lab/m", "--batch-api", "--batch-window", "soon"), "completion window 'soon': write 24h"),
        (("-m", "local", "--batch-api", "--plan"), "--batch-api needs a server that has /v1/files and"),
    ],
)
def test_what_cannot_go_by_a_batch_api_is_refused(shoal: Shell, options: tuple[str, ...], said: str) -> None:
    code, _, err = shoal(*ASKED, *options)
    assert code == 2
    assert said in " ".join(err.split())


@pytest.mark.timeout(120)
def test_a_server_without_batches_is_refused_and_nothing_is_paid() -> None:
    async def main() -> None:
        async with serving(reply) as server:
            configured(server.base_url, "m")
            server.disturb("GET /v1/batches", "404")
            code, _, err = await done(*LAB, "--batch-api")
            assert code == 2
            assert "lab/m has no batch API; leave --batch-api out" in err
            assert draws_paid() == {}

    run(main())
