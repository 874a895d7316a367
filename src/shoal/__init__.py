"""Many samples, moving as one: LLM programs in bulk, and test-time compute well spent.

import shoal

model = shoal.open_model("self_consistency(n=8)@local")
completion = shoal.run(model("What is the capital of France?"))
print(completion.text)
"""

import importlib
from typing import TYPE_CHECKING, Any

from shoal.errors import ShoalError as ShoalError
from shoal.runtime.budget import Budget as Budget
from shoal.runtime.builtin import Builtin as Builtin
from shoal.runtime.builtin import builtin as builtin
from shoal.runtime.concurrency import gather as gather
from shoal.runtime.model import Model as Model
from shoal.runtime.model import answer as answer
from shoal.runtime.model import apply as apply
from shoal.runtime.model import sample as sample
from shoal.runtime.model import then as then
from shoal.runtime.outlet import Piece as Piece
from shoal.runtime.program import Program as Program
from shoal.runtime.program import parallel as parallel
from shoal.runtime.program import program as program
from shoal.runtime.program import repeat as repeat
from shoal.runtime.program import stream as stream
from shoal.runtime.program import with_registry as with_registry
from shoal.runtime.registry import Registry as Registry
from shoal.runtime.registry import copy_registry as copy_registry
from shoal.runtime.registry import using as using
from shoal.runtime.trace import Span as Span
from shoal.runtime.trace import tracing as tracing
from shoal.runtime.types import Completion as Completion
from shoal.runtime.types import Delta as Delta
from shoal.runtime.types import Json as Json
from shoal.runtime.types import Message as Message
from shoal.runtime.types import Request as Request
from shoal.runtime.types import SamplingParams as SamplingParams
from shoal.runtime.types import Usage as Usage

if TYPE_CHECKING:
    from shoal.batch.choices import Batch as Batch
    from shoal.batch.export import write_fine_tuning as write_fine_tuning
    from shoal.batch.export import write_records as write_records
    from shoal.batch.mapping import amap as amap
    from shoal.batch.mapping import map as map
    from shoal.batch.merging import merge as merge
    from shoal.batch.prompts import achat as achat
    from shoal.batch.prompts import acomplete as acomplete
    from shoal.batch.prompts import chat as chat
    from shoal.batch.prompts import complete as complete
    from shoal.batch.records import Record as Record
    from shoal.evaluation.comparing.calling import acompare as acompare
    from shoal.evaluation.comparing.calling import compare as compare
    from shoal.evaluation.comparing.result import Comparison as Comparison
    from shoal.evaluation.scorers import open_scorer as open_scorer
    from shoal.prompting import llm as llm
    from shoal.prompting.composing import c as c
    from shoal.prompting.composing.jinja import JinjaPrompt as JinjaPrompt
    from shoal.prompting.composing.writing import Rendered as Rendered
    from shoal.techniques.opening import open_model as open_model
    from shoal.techniques.running import arun as arun
    from shoal.techniques.running import run as run
    from shoal.traces.html import trace_html as trace_html

# Imported when first used: everything but the types and what programs are made of.
_LATER = {
    "Batch": "shoal.batch.choices",
    "Comparison": "shoal.evaluation.comparing.result",
    "JinjaPrompt": "shoal.prompting.composing.jinja",
    "Record": "shoal.batch.records",
    "Rendered": "shoal.prompting.composing.writing",
    "acompare": "shoal.evaluation.comparing.calling",
    "achat": "shoal.batch.prompts",
    "acomplete": "shoal.batch.prompts",
    "amap": "shoal.batch.mapping",
    "c": "shoal.prompting.composing",
    "chat": "shoal.batch.prompts",
    "compare": "shoal.evaluation.comparing.calling",
    "complete": "shoal.batch.prompts",
    "arun": "shoal.techniques.running",
    "llm": "shoal.prompting.llm",
    "map": "shoal.batch.mapping",
    "merge": "shoal.batch.merging",
    "open_model": "shoal.techniques.opening",
    "open_scorer": "shoal.evaluation.scorers",
    "run": "shoal.techniques.running",
    "trace_html": "shoal.traces.html",
    "write_fine_tuning": "shoal.batch.export",
    "write_records": "shoal.batch.export",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    module = importlib.import_module(_LATER[name])
    value = getattr(module, name, module)  # llm is the module itself
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
