"""What a run tells of itself."""

from shoal.sandbox import Outcome


def test_ok_and_error() -> None:
    fine = Outcome("1\n", "", 0, None, 0.1, "landlock+seccomp")
    assert fine.ok
    assert fine.error == ""
    failed = Outcome("", "Traceback\nValueError: x\n", 1, None, 0.1, "landlock+seccomp")
    assert not failed.ok
    assert failed.error.endswith("ValueError: x")
    silent = Outcome("", "", 3, None, 0.1, "landlock+seccomp")
    assert silent.error == "ended with exit code 3 and no message"
    crashed = Outcome("", "", -11, None, 0.1, "landlock+seccomp")
    assert crashed.error == "ended by signal 11 (SIGSEGV)"
    assert "unknown" in Outcome("", "", -99, None, 0.1, "landlock+seccomp").error
    stopped = Outcome("", "", None, "wall time", 0.1, "landlock+seccomp")
    assert not stopped.ok
    assert "wall time" in stopped.error
