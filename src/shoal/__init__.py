"""Many samples, moving as one: LLM programs in bulk, and test-time compute well spent.

import shoal

model = shoal.open_model("self_consistency(n=8)@local")
completion = shoal.run(model("What is the capital of France?"))
print(completion.text)
"""

from shoal.backends.loop import run as run
from shoal.batch.mapping import amap as amap
from shoal.batch.mapping import map as map
from shoal.batch.records import Record as Record
from shoal.errors import ShoalError as ShoalError
from shoal.runtime.budget import Budget as Budget
from shoal.runtime.concurrency import gather as gather
from shoal.runtime.model import Model as Model
from shoal.runtime.model import answer as answer
from shoal.runtime.model import apply as apply
from shoal.runtime.model import sample as sample
from shoal.runtime.model import stream as stream
from shoal.runtime.model import then as then
from shoal.runtime.trace import tracing as tracing
from shoal.runtime.types import Completion as Completion
from shoal.runtime.types import Delta as Delta
from shoal.runtime.types import Json as Json
from shoal.runtime.types import Message as Message
from shoal.runtime.types import Request as Request
from shoal.runtime.types import SamplingParams as SamplingParams
from shoal.runtime.types import Usage as Usage
from shoal.techniques.opening import open_model as open_model
from shoal.traces.html import trace_html as trace_html
