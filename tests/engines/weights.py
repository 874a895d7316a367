"""Weights on disk for engines: a tiny random Llama, an adapter for it, and the packaged model as engines read it."""

import json
from pathlib import Path
from typing import Any

SEED = 20
# Byte-level BPE has 256 tokens of its own; merges of this text give it some words besides.
_CORPUS = ("the sea is deep and the fish swim in the sea together as one shoal of many fish " * 4).split()
_TURNS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tiny_llama(folder: Path, *, context: int = 512, seed: int = SEED) -> Path:
    """A random Llama of 2 layers and about 0.1 million parameters with its tokenizer and chat template, in `folder`.

    The same seed writes the same bytes. It says nothing sensible, and rarely ends by itself.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(context)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # of 32, the least that vLLM's kernels for a CPU know
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        tie_word_embeddings=False,
        initializer_range=0.2,  # wide, so that likelihoods differ from token to token
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(context: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(_SPECIAL),
    )
    core.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TURNS
    return tokenizer


def tiny_lora(folder: Path, base: Path, *, rank: int = 8, seed: int = SEED) -> Path:
    """A random LoRA adapter for a tiny Llama, as PEFT writes one, strong enough to change every answer."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((base / "config.json").read_text())
    hidden = config["hidden_size"]
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for projection in ("q_proj", "o_proj"):  # as wide as the model, however many key-value heads it has
            place = f"base_model.model.model.layers.{layer}.self_attn.{projection}"
            weights[f"{place}.lora_A.weight"] = torch.randn(rank, hidden, generator=random)
            weights[f"{place}.lora_B.weight"] = torch.randn(hidden, rank, generator=random)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj", "o_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


def packaged_model(folder: Path) -> Path:
    """The embedded model's weights (SmolLM2-135M-Instruct) in bfloat16, as a directory that engines load."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from shoal.backends.weights import embedded_weights

    packaged = embedded_weights()
    source: dict[str, Any] = {"gguf_file": packaged.name}
    unpacked = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        packaged.parent, dtype=torch.bfloat16, quantization_config=unpacked, **source
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(packaged.parent, **source).save_pretrained(folder)
    return folder
