r"""The final answer a reply states, the form in which two answers can be compared, and what a judge decided.

Pure text work, in linear time, on text that may be hostile: nothing is evaluated, and no number is built that the text
does not spell out. Whether two formulas are equal takes a computer algebra system, which must not read such text in
this process.
"""

from shoal.prompting.answers.comparison import equivalent as equivalent
from shoal.prompting.answers.comparison import normalise as normalise
from shoal.prompting.answers.extraction import KINDS as KINDS
from shoal.prompting.answers.extraction import extract as extract
from shoal.prompting.answers.judgement import rating as rating
from shoal.prompting.answers.judgement import verdict as verdict
from shoal.prompting.answers.markup import Block as Block
from shoal.prompting.answers.markup import blocks as blocks
from shoal.prompting.answers.markup import code as code
from shoal.prompting.answers.numbers import number as number
