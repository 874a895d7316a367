"""A Ray worker, a replica, the batch endpoint, a run and a shard are killed; the output is the undisturbed run's."""

from pathlib import Path
from typing import Any

import pytest
from benchmarks import faults

ROWS, SCALE = 32, 0.1  # a simulated second of a replica's takes so many real ones
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # of what it sets itself
    pytest.mark.filterwarnings("ignore:The minimum number of concurrent actors"),  # than there are batches
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("faults")
    faults.write_rows(place, ROWS)
    return place


@pytest.fixture(scope="module")
def whole(place: Path) -> faults.Run:
    return faults.undisturbed(place, SCALE)


def nothing_is_lost(found: dict[str, Any]) -> None:
    assert found["equal"], found
    assert found["rows"] == ROWS
    assert found["draws"] == faults.DRAWS * ROWS
    assert (found["lost"], found["doubled"], found["other_draws"]) == (0, 0, 0)


def what_was_kept_is_not_asked_again(found: dict[str, Any]) -> None:
    assert found["kept"] > 0
    assert found["kept_asked_again"] == 0
    assert found["paid_twice"] <= found["asked_again"]


def test_a_replica_and_a_ray_actor_are_killed_in_one_run(cluster: Any, place: Path, whole: faults.Run) -> None:
    run = faults.by_ray(cluster, place, SCALE, faults.write_rows(place, ROWS))
    found = faults.row("ray", whole._replace(output=faults.as_results(whole.output)), run)
    nothing_is_lost(found)
    what_was_kept_is_not_asked_again(found)


def test_a_shard_is_killed_and_run_again(place: Path, whole: faults.Run) -> None:
    found = faults.row("shards", whole, faults.by_shards(place, SCALE, ROWS))
    nothing_is_lost(found)
    what_was_kept_is_not_asked_again(found)


def test_the_batch_endpoint_dies_and_then_the_run(place: Path) -> None:
    found = faults.row("batch api", *faults.by_batch_api(place, ROWS))
    nothing_is_lost(found)
    assert found["asked_again"] == found["paid_twice"] == 0
