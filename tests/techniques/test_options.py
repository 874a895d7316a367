"""Options that make no sense are named, with their value."""

import pytest

from shoal.errors import UsageError
from shoal.techniques._options import at_least, not_empty


def test_an_option_below_its_least_value_is_named() -> None:
    at_least(1, width=2, depth=1)
    for value in (0, float("nan")):
        with pytest.raises(UsageError, match=f"depth={value}: must be at least 1"):
            at_least(1, width=2, depth=value)


def test_an_empty_list_is_named() -> None:
    not_empty(proposers=None, judges=["a"])
    with pytest.raises(UsageError, match="proposers is empty; name at least one"):
        not_empty(proposers=[])
