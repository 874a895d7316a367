"""Which shard a process is to do, as it is given or as a launcher says; and which rows that is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.batch.rows import Shard
from shoal.batch.sharding import parse_shard
from shoal.errors import UsageError


def array(number: int, count: int, first: int = 0, last: int | None = None, step: int = 1) -> dict[str, str]:
    """What Slurm tells a task of an array."""
    last = first + (count - 1) * step if last is None else last
    told = {"ID": number, "COUNT": count, "MIN": first, "MAX": last, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in told.items()} | {
        "SLURM_PROCID": "0",  # what a batch script has besides
        "SLURM_NTASKS": "1",
    }


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("0/8", {}, Shard(0, 8)),
        ("7/8", {}, Shard(7, 8)),
        ("0/1", {"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, Shard(0, 1)),
        ("auto", array(3, 8), Shard(3, 8)),
        ("auto", array(3, 8, first=1), Shard(2, 8)),
        ("auto", array(12, 4, first=0, step=4), Shard(3, 4)),
        ("auto/8", array(3, 1, first=3), Shard(3, 8)),  # one task of the array, run again
        ("auto", {"SLURM_PROCID": "5", "SLURM_NTASKS": "6"}, Shard(5, 6)),
        ("auto/8", {"JOB_COMPLETION_INDEX": "7"}, Shard(7, 8)),
        ("auto", {"SKYPILOT_JOB_RANK": "2", "SKYPILOT_NUM_JOBS": "4", "SLURM_PROCID": "0"}, Shard(2, 4)),
    ],
)
def test_a_shard_is_read(text: str, environment: dict[str, str], shard: Shard) -> None:
    assert parse_shard(text, environment) == shard


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("0/0", {}, "at least one shard"),
        ("4/4", {}, "those of 4 are 0/4 to 3/4"),
        ("-1/4", {}, "expected i/n"),
        ("a/b", {}, "expected i/n"),
        ("3", {}, "expected i/n"),
        ("1/4 ", {}, "expected i/n"),
        ("٣/٤", {}, "expected i/n"),
        ("", {}, "expected i/n"),
        ("auto", {}, "no launcher says which shard this is"),
        ("auto/0", array(0, 4), "at least one shard"),
        ("auto", {"JOB_COMPLETION_INDEX": "7"}, "say it, as in --shard auto/8"),
        ("auto/4", {"JOB_COMPLETION_INDEX": "4"}, "numbers go up to 4"),
        ("auto/8", array(3, 8, first=1), "number them 0 to 7"),  # the whole array is numbered so: all are refused
        ("auto", array(6, 3, first=0, last=7), "have gaps"),
        ("auto", array(5, 4, first=0, step=4), "have gaps"),
        ("auto", {"SLURM_PROCID": "x", "SLURM_NTASKS": "6"}, "SLURM_PROCID='x' is not a number"),
        ("auto", {"SLURM_PROCID": "1"}, "SLURM_NTASKS='' is not a number"),
        ("auto", {"SLURM_PROCID": "6", "SLURM_NTASKS": "6"}, "those of 6 are 0/6 to 5/6"),
    ],
)
def test_what_is_no_shard_is_one_clear_line(text: str, environment: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match="--shard") as error:
        parse_shard(text, environment)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@given(st.integers(1, 40), st.integers(0, 200))
def test_every_row_is_in_one_shard_and_shards_are_of_one_length(count: int, rows: int) -> None:
    shards = [Shard(index, count) for index in range(count)]
    owners = [[shard for shard in shards if number in shard] for number in range(rows)]
    assert all(len(found) == 1 for found in owners)
    sizes = [shard.size(rows) for shard in shards]
    assert sizes == [sum(found == [shard] for found in owners) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
