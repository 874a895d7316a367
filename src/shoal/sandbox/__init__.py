"""Runs Python and SMT-LIB text that a model wrote, in confined child processes; where none can be made, it refuses."""

from shoal.sandbox.outcome import Layer as Layer
from shoal.sandbox.outcome import Limits as Limits
from shoal.sandbox.outcome import Outcome as Outcome
from shoal.sandbox.outcome import Report as Report
from shoal.sandbox.running import check as check
from shoal.sandbox.running import need as need
from shoal.sandbox.running import run_python as run_python
from shoal.sandbox.running import run_smt as run_smt
