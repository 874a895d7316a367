"""The draws of a run: what each generation is said to cost, whoever of those who share a draw comes first."""

import asyncio
from contextlib import closing
from pathlib import Path

import pytest
from tests.scripting import run

from shoal.batch.journal import Journal, RowRecorder
from shoal.evolution.draws import Draws
from shoal.runtime.types import Completion, Request, Usage

PAID = Completion("yes", usage=Usage(5, 1, calls=1))
ASK = Request.of("Is it?")


@pytest.mark.parametrize("payer", [0, 1])
def test_a_shared_draw_is_kept_as_it_was_paid_for_whoever_comes_first(tmp_path: Path, payer: int) -> None:
    """Who joins a draw in the moment in which it is answered may be served before who pays for it."""

    async def shared() -> Usage:
        draws = Draws(journal)
        joined = draws.of(1 - payer).record("m", ASK, PAID.cached())
        await asyncio.gather(joined, draws.of(payer).record("m", ASK, PAID))
        return await draws.close(0)

    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        cost = run(shared())
        assert cost == PAID.usage
        again = Draws(journal)
        kept = again.of(0).replay("m", ASK)
        assert kept == PAID
        assert run(again.close(0)) == cost
        resumed = Draws(journal, closed=0)
        assert resumed.of(1).replay("m", ASK) == PAID.cached()
        assert resumed.unfinished() == Usage()


def test_a_row_that_pays_for_a_shared_draw_gets_it_back_as_paid(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:

        async def shared() -> None:
            joined = RowRecorder(journal, 1).record("m", ASK, PAID.cached())
            await asyncio.gather(joined, RowRecorder(journal, 0).record("m", ASK, PAID))

        run(shared())
        assert RowRecorder(journal, 0).replay("m", ASK) == PAID
        assert RowRecorder(journal, 1).replay("m", ASK) == PAID.cached()
