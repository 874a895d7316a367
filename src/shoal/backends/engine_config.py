"""Requests in the terms of OpenVINO GenAI; imported in the engine's process alone."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from msgspec import structs

from shoal.backends.engine_wire import Ask
from shoal.backends.schemas import check_enforced
from shoal.errors import BadRequest, ContextLengthExceeded
from shoal.runtime.types import SamplingParams

CONTEXT = 8192  # where the file does not say
DEFAULT_MAX_TOKENS = 512
DEFAULT_TEMPERATURE = 1.0
MAX_SEQUENCES = 64  # decoded together; more wait
_KV_BLOCKS = 1024  # of 32 tokens, about 13 KB each token: 425 MB when full
_PASSED_OVER = frozenset({"allOf", "propertyNames"})  # of a schema
_EXTRAS = {"repetition_penalty", "no_repeat_ngram_size", "ignore_eos", "min_tokens"}


def import_genai() -> Any:
    """The engine. Importing its base package would report home by HTTP; without that module it does not."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino_genai

    return openvino_genai


def load(genai: Any, weights: Path, *, prefix_caching: bool = True) -> Any:
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = _KV_BLOCKS
    scheduler.enable_prefix_caching = prefix_caching
    scheduler.max_num_seqs = MAX_SEQUENCES
    return genai.ContinuousBatchingPipeline(str(weights), scheduler, "CPU", {})


def pieces(tokenizer: Any) -> list[bytes]:
    """The bytes of every token; none for those that mark turns."""
    vocabulary = {token: piece for piece, token in tokenizer.get_vocab().items()}
    ids = [[token] for token in range(max(vocabulary) + 1)]
    shown = tokenizer.decode(ids, skip_special_tokens=True)
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    return [
        b"" if full and not text else vocabulary.get(i, b"")
        for i, (text, full) in enumerate(zip(shown, whole, strict=True))
    ]


def tokens(tokenizer: Any, prompt: str | list[tuple[str, str]]) -> list[int]:
    """The prompt as the model sees it. A last turn of the assistant is the beginning of its reply."""
    text, begun = prompt, ""
    if not isinstance(text, str):
        if text and text[-1][0] == "assistant":
            *text, (_, begun) = text
        text = tokenizer.apply_chat_template([{"role": role, "content": said} for role, said in text], True)
    ids: list[int] = tokenizer.encode(text + begun, add_special_tokens=False).input_ids.data.reshape(-1).tolist()
    return ids


def tensor(ids: list[int]) -> Any:
    import numpy as np
    from openvino import Tensor

    return Tensor(np.array([ids], np.int64))


def check(ask: Ask, prompt: int, context: int) -> None:
    """Refuse what cannot be run, before it is."""
    params = ask.params
    if not prompt:
        raise BadRequest("an empty prompt cannot be continued")
    if prompt + (params.max_tokens or 1) > context:
        reply = f" and {params.max_tokens} of reply" if params.max_tokens else ""
        raise ContextLengthExceeded(f"{prompt} tokens of prompt{reply} do not fit the context of {context}")
    check_constraint(params)
    unknown = set(params.extra.value()) - _EXTRAS if params.extra else set()
    if unknown:
        raise BadRequest(f"the engine knows no {', '.join(sorted(unknown))}; of extras it takes {sorted(_EXTRAS)}")


def check_constraint(params: SamplingParams) -> None:
    """Refuse what is plainly wrong: the engine would have to be loaded again to get over it."""
    check_enforced(params.json_schema, _PASSED_OVER, "")
    if params.regex is not None:
        try:
            re.compile(params.regex)
        except re.error as error:
            raise BadRequest(f"regex {params.regex!r}: {error}") from None
        except RecursionError:
            raise BadRequest("regex: too deeply nested") from None
        if re.search(r"(?<!\\)\(\?[^:]|\\[1-9bB]", params.regex):
            raise BadRequest(f"regex {params.regex!r}: the engine knows no lookaround, backreferences, \\b or flags")
    if params.grammar is not None:
        rules = set(re.findall(r"^\s*([\w-]+)\s*::=", params.grammar, re.MULTILINE))
        bare = re.sub(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#.*|\{[\d,]*\}', " ", params.grammar)
        missing = {"root", *re.findall(r"[A-Za-z_][\w-]*", bare)} - rules
        if missing:
            raise BadRequest(f"the grammar has no rule {', '.join(sorted(missing))}")


def with_max_tokens(params: SamplingParams, count: int) -> SamplingParams:
    return structs.replace(params, max_tokens=count)


def can_fork(ask: Ask) -> bool:
    """Whether the engine can draw n sequences from one prompt.

    It keeps the state of a constraint, and the counts that penalties need, per prompt, not per sequence.
    """
    params = ask.params
    counted = params.presence_penalty or params.frequency_penalty or params.extra
    return not (constraint_key(params) or params.choices or counted)


def config(genai: Any, ask: Ask, draws: list[int], done: int, end: int) -> Any:
    """How to sample `draws` of a call, of which `done` tokens are there; `end` is the token that ends a turn."""
    params = ask.params
    config = genai.GenerationConfig()
    config.set_eos_token_id(end)
    config.apply_chat_template = False
    config.max_new_tokens = (params.max_tokens or DEFAULT_MAX_TOKENS) - done
    config.num_return_sequences = len(draws)
    temperature = DEFAULT_TEMPERATURE if params.temperature is None else params.temperature
    if temperature != 0:
        config.do_sample = True
        config.temperature = temperature
    config.rng_seed = (ask.seed + draws[0] + done) & 0xFFFFFFFF
    for name in ("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"):
        if (value := getattr(params, name)) is not None:
            setattr(config, name, value)
    for name, value in (params.extra.value() if params.extra else {}).items():
        setattr(config, "min_new_tokens" if name == "min_tokens" else name, value)
    if params.stop:
        config.stop_strings = set(params.stop)
        config.include_stop_str_in_output = True
    config.logprobs = int(params.logprobs)
    config.structured_output_config = _constraint(genai, params)
    return config


def echo(genai: Any) -> Any:
    """Generate nothing; give the log-probability of each token of the prompt."""
    config = genai.GenerationConfig()
    config.apply_chat_template = False
    config.echo = True
    config.logprobs = 1
    config.max_new_tokens = 0
    return config


def constraint_key(params: SamplingParams) -> str:
    """What the engine may not be able to read, if anything; our own grammar of choices it can."""
    if params.json_schema is not None:
        return f"schema {params.json_schema.text}"
    if params.regex is not None:
        return f"regex {params.regex}"
    return f"grammar {params.grammar}" if params.grammar is not None else ""


def _constraint(genai: Any, params: SamplingParams) -> Any:
    if params.json_schema is not None:
        return genai.StructuredOutputConfig(json_schema=params.json_schema.text)
    if params.regex is not None:
        return genai.StructuredOutputConfig(regex=params.regex)
    grammar = params.grammar
    if params.choices:
        grammar = "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in params.choices)
    return None if grammar is None else genai.StructuredOutputConfig(grammar=grammar)


def first_line(error: Exception) -> str:
    """What the engine said, without the places in its source that it says first."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return re.sub(r"^.*\.(?:cc|cpp|hpp):\d+:?\s*", "", lines[-1])[:300] if lines else type(error).__name__
