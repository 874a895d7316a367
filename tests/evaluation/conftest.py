"""Scorers that run what a model wrote are tested where it can be confined."""

import pytest

from shoal.sandbox import check


@pytest.fixture
def confined() -> None:
    if why := check().missing:
        pytest.skip(why)
