"""Loading a model for the transformers engine, and turning requests into its tokens."""

import logging
import os
import sys
from typing import Any

import msgspec
from msgspec import structs

from shoal.backends.chat_template import TEMPLATE_EXTRA, written
from shoal.backends.hf.config import Source, written_defaults
from shoal.backends.hf.constraints import Constraints
from shoal.backends.hf.replies import reader
from shoal.backends.hf.sequence import Call, Extras, Sequence, Vocabulary
from shoal.backends.tool_calls import MARKS
from shoal.backends.tools import TOOL_EXTRAS, tools_of
from shoal.errors import BadRequest, ContextLengthExceeded
from shoal.runtime.types import Request, SamplingParams

_CONTEXT = 2048  # where the model does not say
_EXTRAS = frozenset({*Extras.__struct_fields__, TEMPLATE_EXTRA, *TOOL_EXTRAS})


class LoadedModel:
    """A model with its tokenizer on its device. Everything but the weights' forward pass is one thread's.

    `context` is the most tokens of prompt and reply.
    """

    def __init__(self, source: Source) -> None:
        self.name, self.options = source.name, source.options
        transformers = _quiet_transformers()
        import torch

        trust = {"trust_remote_code": source.options.trust_remote_code, "local_files_only": True}
        self.device = _device(torch, source.options.device)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(source.folder, **trust)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=source.options.dtype,
            attn_implementation=source.options.attention,
            use_safetensors=None if source.options.pickle else True,
            **trust,
        )
        if source.adapter is not None:
            import peft

            model = peft.PeftModel.from_pretrained(model, source.adapter, use_safetensors=True).merge_and_unload()
        self.model = model.to(self.device).eval()
        self.defaults = written_defaults(source.folder)
        config = model.config.get_text_config()
        own = getattr(config, "max_position_embeddings", None) or _CONTEXT
        self.context = min(own, source.options.context or own)
        self._read_vocabulary(config.vocab_size)

    def _read_vocabulary(self, size: int) -> None:
        import xgrammar

        ends = _as_list(self.defaults.get("eos_token_id"))
        ends += _as_list(self.model.generation_config.eos_token_id) + _as_list(self.tokenizer.eos_token_id)
        info = xgrammar.TokenizerInfo.from_huggingface(
            self.tokenizer, vocab_size=size, stop_token_ids=sorted(set(ends)) or None
        )
        vocabulary = self.tokenizer.get_vocab()
        marks = {vocabulary[mark] for mark in MARKS if mark in vocabulary}  # of calls, which some models call special
        silent = {*ends, *self.tokenizer.all_special_ids} - marks
        pieces = [b"" if i in silent else bytes(piece) for i, piece in enumerate(info.decoded_vocab)]
        self.vocabulary = Vocabulary(pieces, frozenset(ends))
        self.constraints = Constraints(info, sorted(set(ends)), self.name)

    def last_scores(self, count: int) -> dict[str, int]:
        """Arguments of a forward pass that gives the scores of the last `count` places only, where the model can."""
        can = getattr(self.model, "_supports_logits_to_keep", None)
        return {"logits_to_keep": count} if can is not None and can() else {}

    def prompt(self, request: Request) -> list[int]:
        """The prompt as the model sees it. A last turn of the assistant is the beginning of its reply."""
        if request.prompt is not None:
            tools_of(request)  # which have no place there
            ids: list[int] = self.tokenizer(request.prompt).input_ids
            return ids
        return list(self.tokenizer(written(self.tokenizer, request), add_special_tokens=False).input_ids)

    def option(self, call: Call) -> list[int]:
        """The tokens of the only choice that is to be scored."""
        (text,) = call.request.params.choices
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        if b"".join(self.vocabulary.pieces[token] for token in ids) != text.encode():
            raise BadRequest(f"the choice {text!r} is not what its tokens spell", endpoint=self.name)
        return ids

    def sequences(self, call: Call, *, constrained: bool = True) -> list[Sequence]:
        """The draws of a call, checked: what cannot be run is refused before it is."""
        params = call.request.params
        extras = self._extras(params)
        prompt = self.prompt(call.request)
        if not prompt:
            raise BadRequest("an empty prompt cannot be continued", endpoint=self.name)
        room = self.context - len(prompt)
        if room < (params.max_tokens or 1):
            reply = f" and {params.max_tokens} of reply" if params.max_tokens else ""
            message = f"{len(prompt)} tokens of prompt{reply} do not fit the context of {self.context}"
            raise ContextLengthExceeded(message, endpoint=self.name)
        call.reader = (
            reader(call.request, prompt, self.tokenizer, self.options.tool_call_parser) if constrained else None
        )
        forced = call.reader.constraint if call.reader is not None else ""
        params = structs.replace(params, max_tokens=params.max_tokens or room)
        drawn = [Sequence(self.vocabulary, params, prompt, seed, extras) for seed in call.seeds]
        for sequence in drawn:
            sequence.call = call
            sequence.matcher = self.constraints.matcher(params, forced) if constrained else None
        return drawn

    def _extras(self, params: SamplingParams) -> Extras:
        extra = params.extra.value() if params.extra else {}
        if unknown := sorted(extra.keys() - _EXTRAS):
            message = f"the engine knows no {', '.join(unknown)}; of extras it takes {sorted(_EXTRAS)}"
            raise BadRequest(message, endpoint=self.name)
        try:
            return msgspec.convert(extra, Extras)
        except msgspec.ValidationError as error:
            raise BadRequest(f"extra: {error}", endpoint=self.name) from None


def _quiet_transformers() -> Any:
    """The library, saying nothing of its own: no progress bars, no advice, no reports."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import transformers

    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        transformers.utils.logging.set_verbosity(logging.CRITICAL)
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL + 1)
        transformers.utils.logging.disable_progress_bar()
    return transformers


def _device(torch: Any, wanted: str) -> str:
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if sys.platform == "darwin" and torch.backends.mps.is_available() else "cpu"


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)
