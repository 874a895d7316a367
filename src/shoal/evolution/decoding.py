"""Decoder options as Day Care folders have them, in LMQL's words, as sampling parameters of ours."""

import ast
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from shoal.errors import UsageError, did_you_mean
from shoal.prompting.llm.asking import params_of
from shoal.traces import words

_GREEDY = ("argmax", "beam", "beam_var", "best_k")
_SAMPLING = ("sample", "beam_sample", "var")
_DECODERS = (*_GREEDY, *_SAMPLING)
_SAME = ("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty")
_LENGTHS = ("max_len", "max_tokens", "max_length", "max_new_tokens")
_WITHOUT_MEANING = {
    "n": "one draw is taken of each question",
    "k": "there is no beam here",
    "beam_width": "there is no beam here",
    "chunksize": "nothing is generated speculatively",
    "chunk_size": "nothing is generated speculatively",
    "openai_chunksize": "nothing is generated speculatively",
    "step_budget": "calls are not cut into steps",
    "batch_size": "requests are batched by themselves",
    "cache": "the draw cache is --no-cache's to turn off",
    "timeout": "an endpoint's timeout stands in the configuration",
    "verbose": "--verbose shows what is asked",
    "debug": "--debug_mode does",
    "chatty_openai": "calls are not printed",
    "performance_stats": "the run counts calls and tokens",
    "dump_compiled_code": "nothing is compiled",
    "stream": "nothing is shown before it is whole",
}
_LONGEST = 2000  # characters of an expression


class Decoding(Struct, frozen=True):
    """Sampling parameters, and what was accepted though it has no meaning here: a line for each."""

    params: dict[str, Any]
    notes: tuple[str, ...] = ()


def decoding(options: object, where: str) -> Decoding:
    """From `"sample(temperature=0.7, top_p=0.9)"`, or an object of the same: `{"decoder": "sample", ...}`.

    UsageError, which begins with `where`, for anything else, for an option that LMQL does not have either, and for a
    value that no model can sample with.
    """
    if options is None:
        return Decoding({})
    if isinstance(options, str):
        options = _spelt(options, where)
    if not isinstance(options, Mapping):
        raise UsageError(f'{where}: {_shown(options)} is no decoder; write "argmax" or "sample(temperature=0.7)"')
    given = dict(options)
    params, notes = _named(given.pop("decoder", None), where)
    for name, value in given.items():
        _add(name, value, params, notes, where)
    try:
        params_of(params)
    except (UsageError, TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from None
    return Decoding(params, tuple(f"{where}: {note}" for note in notes))


def _named(decoder: object, where: str) -> tuple[dict[str, Any], list[str]]:
    if decoder is None:
        return {}, []
    if decoder not in _DECODERS:
        raise UsageError(f"{where}: no decoder {_shown(decoder)}; {did_you_mean(str(decoder), _DECODERS)}")
    simple = "argmax" if decoder in _GREEDY else "sample"
    notes = [] if decoder == simple else [f"{decoder} is {simple} here: there is no beam"]
    return ({"temperature": 0.0} if simple == "argmax" else {"temperature": 1.0}), notes


def _add(name: str, value: Any, params: dict[str, Any], notes: list[str], where: str) -> None:
    if name in _SAME:
        if name == "top_k" and value == 0:  # as LMQL says that there is no such bound
            return
        if name == "temperature" and params.get(name) == 0.0 and value != 0:
            notes.append("temperature has no meaning with argmax")
            return
        _of_kind(name, value, where)
        params[name] = value
    elif name in _LENGTHS:
        _of_kind(name, value, where)
        params["max_tokens"] = value
    elif name == "repetition_penalty":
        _of_kind(name, value, where)
        params["extra"] = {"repetition_penalty": value}
    elif name in _WITHOUT_MEANING:
        notes.append(f"{name} has no meaning here: {_WITHOUT_MEANING[name]}")
    else:
        known = (*_SAME, *_LENGTHS, *_WITHOUT_MEANING, "repetition_penalty", "decoder")
        raise UsageError(f"{where}: no decoder option {name!r}; {did_you_mean(name, known)}")


def _of_kind(name: str, value: Any, where: str) -> None:
    whole = name in (*_LENGTHS, "top_k", "seed")
    if not isinstance(value, int if whole else int | float) or isinstance(value, bool):
        raise UsageError(f"{where}: {name} must be a {'whole ' if whole else ''}number, not {_shown(value)}")


def _spelt(text: str, where: str) -> dict[str, Any]:
    """`argmax`, `sample(temperature=0.7)`: read, never evaluated."""
    refusal = UsageError(f'{where}: {_shown(text)} is no decoder; write "argmax" or "sample(temperature=0.7)"')
    if len(text) > _LONGEST:
        raise refusal
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return {"decoder": tree.id}
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.args:
            raise refusal
        return {"decoder": tree.func.id} | {word.arg or "**": ast.literal_eval(word.value) for word in tree.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise refusal from None


def _shown(value: object) -> str:
    return words.short(repr(value), 60)
