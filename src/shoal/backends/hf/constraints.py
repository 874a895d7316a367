"""Constraints on a reply for the transformers engine, by xgrammar: a schema, regex, choice or grammar to follow."""

import json
import re
from typing import Any

from shoal.backends.engine_config import check_constraint
from shoal.errors import BadRequest
from shoal.runtime.types import SamplingParams

_PLACE = re.compile(r"\[[\d:]+\] \S+:\d+: ")  # in xgrammar's own source
_WHITE_SPACE = 16  # characters in a row: a small model may write them without an end


class Constraints:
    """Compiles what requests ask, once each, for a tokenizer and a vocabulary of `size` scores."""

    def __init__(self, tokenizer_info: Any, ends: list[int], name: str) -> None:
        import xgrammar

        self._xgrammar = xgrammar
        self._compiler = xgrammar.GrammarCompiler(tokenizer_info)
        self._ends = ends
        self._name = name

    def matcher(self, params: SamplingParams, tag: str = "") -> Any:
        """What follows the constraint of one sequence, None where there is none. BadRequest where it is unreadable.

        `tag`, a structural tag of xgrammar's, is a constraint of the engine's own.
        """
        try:
            check_constraint(params)
            compiled = self._compiler.compile_structural_tag(tag) if tag else self._compiled(params)
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise BadRequest(
                f"the constraint: {_PLACE.sub('', lines[-1]).strip()[:300]}", endpoint=self._name
            ) from None
        return compiled and self._xgrammar.GrammarMatcher(compiled, override_stop_tokens=self._ends)

    def _compiled(self, params: SamplingParams) -> Any:
        if params.json_schema is not None:
            return self._compiler.compile_json_schema(params.json_schema.text, max_whitespace_cnt=_WHITE_SPACE)
        if params.regex is not None:
            return self._compiler.compile_regex(params.regex)
        grammar = params.grammar
        if params.choices:
            grammar = "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in params.choices)
        return None if grammar is None else self._compiler.compile_grammar(grammar)
