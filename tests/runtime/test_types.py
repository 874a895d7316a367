"""What is asked of a model: values that cannot be sampled with are refused where they are written."""

from typing import Any

import pytest

from shoal.errors import UsageError
from shoal.runtime.types import Json, Request, sampling_params


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0, not -0.1"),
        ({"temperature": float("nan")}, "temperature must be at least 0, not nan"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, not 0"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1, not 1.1"),
        ({"min_p": -1}, "min_p must be between 0 and 1, not -1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"regex": "a", "choices": ["a"]}, "regex and choices cannot constrain one text together; give one"),
    ],
)
def test_what_no_model_can_sample_with_is_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Request.of("x", **params)
    assert str(caught.value) == said


def test_plain_values_become_hashable_ones() -> None:
    params = sampling_params(stop="###", json_schema={"b": 1, "a": 2}, temperature=0)
    assert params.stop == ("###",)
    assert params.json_schema == Json('{"b":1,"a":2}')  # the order in which a model writes
    assert isinstance(hash(params), int)
