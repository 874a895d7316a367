"""The simulated replicas: an engine that batches and caches as told, and the router before several of them."""

import asyncio
import os
import signal
from pathlib import Path
from random import Random

import pytest
from benchmarks.replica_engine import BLOCK, CHARACTERS, Blocks, Hardware, Replica
from benchmarks.replica_server import Server, servers
from benchmarks.replica_work import Work, alone, under
from benchmarks.replicas import simulated
from tests.virtual_time import run_virtually

from shoal.backends.config import Config, Endpoint
from shoal.backends.loop import run
from shoal.backends.routing import Route, Routing
from shoal.batch.mapping import amap
from shoal.batch.runner import Progress
from shoal.techniques.opening import open_model

WHOLE = BLOCK * CHARACTERS


def text(tokens: int, seed: int = 0) -> str:
    return "".join(Random(seed).choices("abcdefgh", k=tokens * CHARACTERS))


def drawn(replica: Replica, *asked: tuple[str, int], one_by_one: bool = False) -> float:
    """Seconds in which the replica answers prompts with so many replies of ten tokens each."""

    async def main() -> float:
        begun = asyncio.get_running_loop().time()
        tasks = []
        for i, (prompt, n) in enumerate(asked):
            tasks.append(asyncio.ensure_future(replica.draw(prompt, [text(10, 1000 + 100 * i + j) for j in range(n)])))
            if one_by_one:
                await tasks[-1]
        await asyncio.gather(*tasks)
        return asyncio.get_running_loop().time() - begun

    return run_virtually(main())


class TestEngine:
    def test_draws_of_one_prompt_share_its_blocks(self) -> None:
        replica = Replica()
        drawn(replica, (text(100), 8))
        counts = replica.engine.counts
        assert counts.prompt_tokens == 800
        assert counts.cached_tokens == 7 * (100 // BLOCK) * BLOCK
        assert counts.completion_tokens == 80

    def test_a_prompt_asked_again_is_computed_but_for_its_last_block(self) -> None:
        replica = Replica()
        drawn(replica, (text(96), 1), (text(96), 1), one_by_one=True)
        assert replica.engine.counts.cached_tokens == 80  # the last token must be computed: its block is

    def test_a_reply_is_found_where_the_conversation_goes_on(self) -> None:
        replica = Replica()
        first, reply = text(100), text(10, 1000)
        drawn(replica, (first, 1), (first + reply + text(40, 2), 1), one_by_one=True)
        assert replica.engine.counts.cached_tokens == 96  # six blocks; the seventh ends in what is new

    def test_what_is_not_used_goes_first(self) -> None:
        replica = Replica(Hardware(kv_tokens=18 * BLOCK))
        old, new = text(128, 1), text(128, 2)
        drawn(replica, (old, 1), (new, 1), (text(128, 3), 1), (new, 1), (old, 1), one_by_one=True)
        assert replica.engine.counts.cached_tokens == 7 * BLOCK  # of the new one alone
        assert replica.engine.counts.evicted_blocks > 0

    def test_memory_is_never_exceeded_and_all_is_given_back(self) -> None:
        chance = Random(3)
        replica = Replica(Hardware(kv_tokens=40 * BLOCK, max_num_seqs=6, max_num_batched_tokens=64))
        blocks, admit = replica.engine.blocks, Blocks.admit

        def checked(self: Blocks, draw: object) -> bool:
            admitted = admit(self, draw)  # type: ignore[arg-type]
            assert len(self.used) + self.private + len(self.idle) <= self.size
            return admitted

        Blocks.admit = checked  # type: ignore[method-assign,assignment]
        try:
            drawn(
                replica,
                *((text(chance.randrange(1, 300), chance.randrange(9)), chance.randrange(1, 5)) for _ in range(60)),
            )
        finally:
            Blocks.admit = admit  # type: ignore[method-assign]
        assert (blocks.used, blocks.private) == ({}, 0)
        assert not replica.engine.busy
        assert replica.engine._context == 0

    def test_a_step_takes_what_the_model_says(self) -> None:
        hardware = Hardware()
        alone_ = drawn(Replica(), (text(1000), 1))
        read = 2 * hardware.weights / hardware.bandwidth
        assert alone_ == pytest.approx(9 * (0.001 + read) + 1000 * 2 * hardware.weights / hardware.flops, rel=0.05)
        assert drawn(Replica(), *((text(100, i), 1) for i in range(20))) < 5 * alone_  # together
        assert drawn(Replica(slowness=3.0), (text(1000), 1)) == pytest.approx(3 * alone_)

    def test_long_prompts_come_in_chunks(self) -> None:
        replica = Replica(Hardware(max_num_batched_tokens=512))
        drawn(replica, (text(2000), 1))
        assert replica.engine._steps == 4 + 9


def test_affinity_saves_what_round_robin_computes_again() -> None:
    work = Work("", under(12, 600, 60, 20), limit=2)
    found = {policy: run_virtually(simulated(work, policy, 0)) for policy in ("affinity", "round-robin", "one cache")}
    prefill = {policy: each["prefill_tokens"] for policy, each in found.items()}
    assert prefill["affinity"] < 0.6 * prefill["round-robin"]
    assert prefill["affinity"] < 1.5 * prefill["one cache"]
    assert found["affinity"]["makespan_s"] < found["round-robin"]["makespan_s"]
    assert run_virtually(simulated(work, "affinity", 0)) == found["affinity"]  # exact


def votes(started: list[Server], run_dir: Path, kill: Server | None = None) -> list[tuple[object, ...]]:
    """The records of 24 votes of 4 over the replicas; `kill` is ended when half of them are there."""
    endpoints = {f"r{i}": Endpoint(server.base_url, "x", max_in_flight=2) for i, server in enumerate(started)}
    routing = Routing(tuple(Route(f"{endpoint}/m") for endpoint in endpoints))
    model = open_model(
        "self_consistency(n=4)@three", config=Config(endpoints=endpoints, models={"three": routing}), cache=False
    )
    rows = [request.text for request in alone(24, 100)(Random(1))]

    def progress(told: Progress) -> None:
        if kill is not None and told.finished == 12:
            os.kill(kill.pid, signal.SIGKILL)

    records = run(amap(model, rows, run_dir=run_dir, on_progress=progress))
    return [(record.id, record.output, record.answer, record.error, record.usage.calls) for record in records]


def test_a_replica_that_dies_half_way_or_is_slow_changes_no_answer(tmp_path: Path) -> None:
    with servers([1.0, 1.0, 1.0], 0.02) as started:
        whole = votes(started, tmp_path / "whole")
        before = [server.counts()["requests"] for server in started]
        assert all(before)
        assert votes(started, tmp_path / "killed", kill=started[0]) == whole
        after = [server.counts()["requests"] for server in started[1:]]
        assert sum(after) >= sum(before[1:]) + 12
    with servers([50.0, 1.0, 1.0], 0.02) as started:
        assert votes(started, tmp_path / "slow") == whole
        slow, *others = (server.counts()["requests"] for server in started)
        assert slow < min(others)
    assert all(error is None for _, _, _, error, _ in whole)
