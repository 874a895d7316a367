"""The command line for its tests."""

import pytest
from tests.cli.shell import Shell


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)
