"""Regular expressions on hostile text: Python's may take for ever and cannot be stopped, but for in another process."""

import asyncio
import json
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

# One line of JSON for each question, one for each answer. It ends when its input does.
_WORKER = """
import json, re, sys
sys.stdout.write("ready\\n")
sys.stdout.flush()
for line in sys.stdin:
    pattern, flags, text = json.loads(line)
    sys.stdout.write("%d\\n" % (re.search(pattern, text, flags) is not None))
    sys.stdout.flush()
"""
_START_SECONDS = 60.0


class Matcher:
    """Searches in a process of its own, one text at a time, which is ended where a search takes over `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, "shoal-regex")
        self._worker: subprocess.Popen[str] | None = None
        self._end: weakref.finalize[..., Matcher] | None = None

    async def matches(self, pattern: str, flags: int, text: str) -> bool:
        """Whether the pattern is found in the text, and that in time."""
        question = json.dumps([pattern, flags, text])
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, question)

    def _ask(self, question: str) -> bool:
        if self._worker is None:
            self._start()
        return self._said(question, self._seconds) == "1\n"

    def _start(self) -> None:
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _WORKER]
        self._worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._end = weakref.finalize(self, _ended, self._worker)
        if not self._said("", _START_SECONDS):
            raise TimeoutError("the process that searches for regular expressions does not start")

    def _said(self, line: str, seconds: float) -> str:
        """The next line of the worker; where it does not come in time, the worker is ended and the line is empty."""
        worker = self._worker
        assert worker is not None
        assert worker.stdin is not None
        assert worker.stdout is not None
        late = threading.Event()
        timer = threading.Timer(seconds, _killed, (worker, late))
        timer.start()
        try:
            if line:
                worker.stdin.write(line + "\n")
                worker.stdin.flush()
            answer = worker.stdout.readline()
        except OSError:  # it was ended in the middle of the question
            answer = ""
        finally:
            timer.cancel()
            timer.join()
        if (late.is_set() or not answer) and self._end is not None:  # it may have been ended just after its answer
            self._end()
            self._worker = None
        return answer


def _killed(worker: "subprocess.Popen[str]", late: threading.Event) -> None:
    late.set()
    worker.kill()


def _ended(worker: "subprocess.Popen[str]") -> None:
    worker.kill()
    worker.communicate()
