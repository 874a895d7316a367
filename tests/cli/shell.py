"""`shoal` as a function and as a process, for tests of the command line."""

import asyncio
import sys

import pytest

from shoal.cli import main


class Shell:
    """The command line, called in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, *self.capture.readouterr()


async def command(*arguments: str) -> asyncio.subprocess.Process:
    """The command line in a process of its own."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shoal", *arguments, stdout=pipe, stderr=pipe, limit=1 << 24
    )


async def done(*arguments: str) -> tuple[int | None, str, str]:
    """The same to its end: exit code, standard output, standard error."""
    process = await command(*arguments)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()
