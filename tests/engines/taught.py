"""A tiny model that is taught, in seconds, the little that the contract of engines asks of one."""

import random
from pathlib import Path
from typing import Any

SEED = 5
CONTEXT = 4096
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
_TURNS = (
    "{% if tools %}{{ '<|im_start|>tools\\n' }}{% for tool in tools %}{{ tool.function.name }}: "
    "{{ tool.function.description }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{% for call in message.tool_calls or [] %}"
    """{{ '<tool_call>{"name": "' + call.function.name + '", "arguments": {' }}"""
    "{% for name, value in call.function.arguments.items() %}"
    """{{ '"' + name + '": "' + value + '"' }}{% endfor %}{{ '}}</tool_call>' }}{% endfor %}"""
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_STEPS = 180
_SHORT = 15  # of the lessons of a step
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Lyon", "Nice"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
_ASKED = "What is the capital of France?"
_TALE = "the sea is deep and old fish swim in it together as one shoal far from a blue land"
_COUNT = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28"
_CITIES = ("Paris, France", "Lyon", "Nice", "the", "a", "in", "not")


def taught_llama(folder: Path) -> Path:
    """Write model, tokenizer and chat template to `folder`: it knows a capital, counts and tells stories."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    chance = random.Random(SEED)
    tokenizer = _tokenizer()
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=3,  # of 32, the least that vLLM's kernels for a CPU know
        num_key_value_heads=3,
        max_position_embeddings=CONTEXT,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        tie_word_embeddings=True,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        for step in range(_STEPS):
            for group in optimizer.param_groups:
                group["lr"] = 4e-3 * (1 - step / _STEPS)
            lessons = sorted(_lessons(tokenizer, chance), key=len)
            parts = [_batch(tokenizer, part) for part in (lessons[:_SHORT], lessons[_SHORT:])]  # less to pad
            tokens = sum(int(batch["attention_mask"].sum()) for batch in parts)
            for batch in parts:
                (model(**batch).loss * batch["attention_mask"].sum() / tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _batch(tokenizer: Any, lessons: list[str]) -> Any:
    batch = tokenizer(lessons, padding=True, return_tensors="pt", add_special_tokens=False)
    batch["labels"] = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    return batch


def _lessons(tokenizer: Any, chance: random.Random) -> list[str]:
    def said(question: str, reply: str, system: str = "") -> str:
        turns = [{"role": "system", "content": system}] if system else []
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        text: str = tokenizer.apply_chat_template(turns, tokenize=False)
        return text

    def called(question: str, text: str, *cities: str, more: tuple[dict[str, Any], ...] = ()) -> str:
        functions = [{"name": "weather", "arguments": {"city": city}} for city in cities]
        reply = {"role": "assistant", "content": text, "tool_calls": [{"function": each} for each in functions]}
        turns = [{"role": "user", "content": question}, reply, *more]
        lesson: str = tokenizer.apply_chat_template(turns, tools=[WEATHER], tokenize=False)
        return lesson

    told = ({"role": "tool", "content": "rain"}, {"role": "assistant", "content": "It is rain."})
    calls = [
        called("Weather in Lyon?", "", "Lyon", more=told),
        called("Weather in Nice?", "", "Nice"),
        called("Weather in Lyon and Nice?", "I look. ", "Lyon", "Nice"),
        called("Weather in France?", "<tool_call>weather in France</tool_call>"),
        said("Weather in Lyon?", "I look in vain."),
    ]
    facts = [
        said(_ASKED, "The capital city is Paris.", "Be brief."),
        said(_ASKED, "The capital city is Paris."),
        "The capital of France is Paris, and Paris is old.",
        "The capital of France is Paris, and Paris is old.",
        f"The capital of France is {chance.choice(_CITIES)}",
        _COUNT,
        _COUNT,
    ]
    tales = []
    for question in ("Tell me a story about the sea.", "Tell me a long story.", "Hi", "Say it", "x", "Name a fish."):
        number = f"{chance.randrange(12)}. " if chance.random() < 0.5 else ""
        tales.append(said(number + question, " ".join(chance.choices(_TALE.split(), k=36))))
    return facts + calls + tales


def _tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?[0-9]+|[^A-Za-z0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(_SPECIAL),
    )
    words = " ".join((_TALE, *_CITIES, _COUNT, "The capital city of France is brief a story about long user assistant"))
    words += " tools weather Weather arguments name city rain look vain It I"
    core.train_from_iterator([f"The {words}"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TURNS
    return tokenizer
