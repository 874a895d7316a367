"""Money at the command line: --budget dollars=, what is told of dollars, and what prices have to be known."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from tests.backends.faulty_batches import FaultyBatches, paid
from tests.cli.shell import Shell

CONFIG = """
[endpoints.lab]
base_url = "{url}"
api_key = "key"
max_in_flight = 3
max_n = 1

[prices."lab/m"]
input = 10.0
output = 20.0
"""
RUN = ("run", "data.jsonl", "-p", "Q: {q}", "-m", "lab/m", "--max-tokens", "8", "--run-dir", "r", "--quiet")


def reply(body: dict[str, Any], choice: int) -> str:
    return "one two three four"


@pytest.fixture
def shoal(at_home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    """The command line beside a server of lab/m, whose calls are kept in paid.jsonl."""
    ready, over = Event(), Event()
    server = FaultyBatches(at_home, reply)

    async def serve() -> None:
        await server.start()
        ready.set()
        await asyncio.to_thread(over.wait)
        await server.stop()

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    Path("shoal.toml").write_text(CONFIG.format(url=server.base_url))
    Path("data.jsonl").write_text("".join(json.dumps({"q": f"{i:03}"}) + "\n" for i in range(12)))
    yield Shell(capsys)
    over.set()
    thread.join()


def cost() -> float:
    """Dollars that the server was paid."""
    used = [each.reply["usage"] for each in paid(Path())]
    return sum(one["prompt_tokens"] * 10 + one["completion_tokens"] * 20 for one in used) / 1e6


def test_a_run_stops_before_its_dollars_are_exceeded_and_goes_on(shoal: Shell) -> None:
    code, out, err = shoal(*RUN, "--budget", "dollars=0.0015", "--json")
    told = json.loads(out)
    assert code == 1
    assert "stopped: the budget of $0.0015 is spent" in err
    assert 0.0008 < cost() <= 0.0015
    assert told["dollars"] == pytest.approx(cost())
    before = len(paid(Path()))
    assert told["finished"] == before < 12
    code, out, _ = shoal(*RUN, "--budget", "dollars=0.0021", "--json")  # of this command: what is kept costs nothing
    assert (code, len(paid(Path()))) == (0, 12)
    assert json.loads(out)["dollars"] == pytest.approx(cost())


def test_a_judge_spends_from_the_same_dollars(shoal: Shell) -> None:
    _, _, err = shoal(*RUN, "--scorer", "judge(model=lab/m)", "--budget", "dollars=0.004")
    assert "the budget of $0.004 is spent" in err
    assert cost() <= 0.004


def test_a_price_that_is_unknown_is_one_line_before_anything_is_asked(shoal: Shell) -> None:
    said = 'price unknown; name it in [prices."lab/other"] of shoal.toml'
    for command in (
        ("run", "data.jsonl", "-p", "{q}", "-m", "lab/m", "-t", "best_of_n(n=2,judge=lab/other)"),
        ("ask", "Q?", "-m", "lab/other"),
        ("compare", "data.jsonl", "-p", "{q}", "--answer", "q", "-m", "lab/other", "-t", "re_reading"),
    ):
        code, _, err = shoal(*command, "--budget", "dollars=1")
        assert code == 2, err
        assert "a budget in dollars needs prices: lab/other: " in err
        assert said in err
    assert not paid(Path())


def test_ask_has_a_budget(shoal: Shell) -> None:
    code, _, err = shoal("ask", "Q?", "-m", "lab/m", "--max-tokens", "8", "--budget", "dollars=0.0001")
    assert code != 0
    assert "the budget of $0.0001 is spent ($0 used, the next call may need $0.0005" in err
    assert not paid(Path())
    assert shoal("ask", "Q?", "-m", "lab/m", "--max-tokens", "8", "--budget", "dollars=0.001")[0] == 0


def test_dollars_are_told_where_prices_are_known(shoal: Shell) -> None:
    code, _, err = shoal(*RUN[:-1])
    assert code == 0
    assert f"dollars  ${cost():.2g}" in err
    Path("shoal.toml").write_text(Path("shoal.toml").read_text().partition("[prices")[0])
    code, out, _ = shoal(*RUN, "--json")
    assert json.loads(out)["dollars"] is None


def test_what_a_plan_says_by_batch_beside_live(shoal: Shell) -> None:
    plan = ("plan", *RUN[1:-1], "-t", "critique(rounds=1)", "--batch-api")
    code, out, _ = shoal(*plan)
    assert code == 0
    assert "3 waves" in out
    assert "what the same would cost without --batch-api" in out
    assert "a wave is back within 24.0 h" in out
    told = json.loads(shoal(*plan, "--json", "--tail-live", "5")[1])
    live = json.loads(shoal(*plan[:-1], "--json")[1])
    assert told["live_dollars"] == live["dollars"]
    assert told["dollars"]["least"] == pytest.approx(live["dollars"]["least"] / 2)
    assert live["dollars"]["most"] / 2 < told["dollars"]["most"] < live["dollars"]["most"]
    assert json.loads(shoal("run", *plan[1:], "--plan", "--json")[1])["waves"] == told["waves"]
    assert (told["waves"]["most"], live["waves"]) == (3, None)
    code, _, err = shoal(*plan[:-1], "--tail-live", "5")
    assert (code, "--tail-live is for --batch-api" in err) == (2, True)
    code, _, err = shoal("plan", "data.jsonl", "-p", "{q}", "-m", "local", "--batch-api")
    assert (code, "--batch-api needs a server" in err) == (2, True)
    assert not paid(Path())


def test_a_run_by_batch_pays_and_tells_the_batch_price(shoal: Shell) -> None:
    told = json.loads(shoal(*RUN, "--batch-api", "--budget", "dollars=1", "--json")[1])
    assert len(paid(Path())) == 12 == sum(each.batch is not None for each in paid(Path()))
    assert told["dollars"] == pytest.approx(cost() / 2)
    assert told["batch_prompt_tokens"] == told["prompt_tokens"] > 0
    by_batch = Path("r/output.jsonl").read_bytes()
    shoal(*RUN, "--run-dir", "live", "--no-cache")
    assert Path("live/output.jsonl").read_bytes() == by_batch


def test_a_tail_that_goes_live_is_told_at_the_live_price(shoal: Shell) -> None:
    told = json.loads(shoal(*RUN, "--batch-api", "--tail-live", "12", "--budget", "dollars=1", "--json")[1])
    assert all(each.batch is None for each in paid(Path()))
    assert told["dollars"] == pytest.approx(cost())
    assert told["batch_prompt_tokens"] == 0


def test_a_budget_by_batch_is_not_exceeded(shoal: Shell) -> None:
    """One call fits at its most, and when it is back for less, another follows."""
    code, out, err = shoal(*RUN, "--batch-api", "--budget", "dollars=0.0005", "--json")
    assert code == 1
    assert "the budget of $0.0005 is spent" in err
    assert 0.0002 < cost() / 2 <= 0.0005
    assert json.loads(out)["dollars"] == pytest.approx(cost() / 2)
