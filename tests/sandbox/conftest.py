"""Tests of the sandbox run in every tier that holds on this machine."""

import functools
import os

import pytest

from shoal.sandbox import check


@functools.cache
def missing(tier: str) -> str:
    assert os.environ["SHOAL_SANDBOX"] == tier
    return check().missing


@pytest.fixture(params=["bubblewrap", "landlock"])
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv("SHOAL_SANDBOX", name)
    if why := missing(name):
        pytest.skip(why)
    return name
