"""The built-ins: what a program asks of whatever model it is run on.

Each can be given another implementation where it is used (`configure`); all of them ask the model of the registry.
"""

from shoal.prompting.llm.choosing import Scored as Scored
from shoal.prompting.llm.choosing import Selection as Selection
from shoal.prompting.llm.choosing import rank as rank
from shoal.prompting.llm.choosing import score_text as score_text
from shoal.prompting.llm.choosing import select as select
from shoal.prompting.llm.choosing import select_scored as select_scored
from shoal.prompting.llm.counting import count_tokens as count_tokens
from shoal.prompting.llm.counting import embed as embed
from shoal.prompting.llm.objects import generate_object as generate_object
from shoal.prompting.llm.text import chat as chat
from shoal.prompting.llm.text import completion as completion
from shoal.prompting.llm.text import completions as completions
from shoal.prompting.llm.text import generate_text as generate_text
from shoal.prompting.llm.text import generate_texts as generate_texts
from shoal.prompting.llm.text import instruct as instruct
