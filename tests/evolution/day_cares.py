"""Day Care folders for tests: files of a folder, and queries in LMQL of our own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TASK = {
    "task_description": "Say whether the review is good. Answer Yes or No.",
    "fitness_scorer": {"type": "BinaryfBeta", "beta": 0.5},
    "decoder_options": "sample(temperature=0.7, n=2)",
    "fitness_decoder_options": "argmax",
    "fixed_system_prompt": "You judge reviews.",
}
SUITE = [
    {"text": f"It was {'fine' if i % 2 else 'awful'} {i}.", "question": "Good?", "gold_good": i % 2 == 1}
    for i in range(6)
]


def folder(at: Path, task: Mapping[str, Any] | str = TASK, name: str = "good", **files: Any) -> Path:
    """A day care folder with one task. `files` are further ones by name, a dot written as `__`."""
    (at / name).mkdir(parents=True)
    text = task if isinstance(task, str) else json.dumps(task)
    (at / name / "task_description.json").write_text(text)
    for file, content in files.items():
        path = at / file.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return at


def suite(at: Path, rows: Any = SUITE) -> Path:
    at.write_text(json.dumps(rows))
    return at


FITNESS = """
    {decoder_options}
        "[[INST]] <<SYS>>"
        "{system_prompt}"
        "<</SYS>>\\n\\n"

        # what is judged
        "Review: {text}\\n"

        if not CoT:
            "{task_prompt}[[/INST]][REQUIREMENT]\\n" where REQUIREMENT in set([" Yes", " No"])
        else:
            "{task_prompt}[[/INST]] {reasoning_prompt} [REASONING]\\n" where len(TOKENS(REASONING)) < 60
            "In short:[REQUIREMENT]\\n" where REQUIREMENT in set([" Yes", " No"])
    from
        lmql.model({model_name_or_path}, cuda=True, batch_size={batch_size}, q={frozenset(model_kwargs["q"])})
"""
WRITES = """
        "\\nNEW:[[\\INST]]"
        "Role: [SYSTEM_PROMPT]\\n" where STOPS_BEFORE(SYSTEM_PROMPT, "\\n") and len(TOKENS(SYSTEM_PROMPT)) <= 40
        "Task: [TASK_PROMPT]\\n" where STOPS_BEFORE(TASK_PROMPT, "\\n") and STOPS_BEFORE(SYSTEM_PROMPT, "  ")
        "Thinking: [REASONING_PROMPT]\\n" where STOPS_AT(REASONING_PROMPT, "\\n") and not "]" in REASONING_PROMPT
    from
        {model_name_or_path}
"""
DIRECT = """
    {decoder_options}
        "{mutation_prompt}\\n"
        if thinking_style:
            "{thinking_style}\\n"
        "OLD:\\n"
        if task_description:
            "{task_description}"
        else:
            "{task_prompt}"
"""
LISTED = """
    {decoder_options}
        if eda_method == "lineage":
            "Oldest first\\n"
        elif eda_method == "ranked":
            "Number " + str(len(task_prompts)) + " is best, then " + str(len(task_prompts)-1) + "\\n"
        else:
            "Examples\\n"
        for i, task_prompt in enumerate(task_prompts):
            "{i}: {task_prompt}\\n"
"""
LAMARCKIAN = """
    {decoder_options}
        "Right workings:\\n"
        for r in correct_reasonings:
            r + "\\n"
        "\\nThe instruction was: " + task_prompt
"""
HYPER = """
    argmax
        "{thinking_style}\\n{task_description}\\n[MUTATION_PROMPT]" where len(TOKENS(MUTATION_PROMPT)) < 250
    from "some/model"
"""


def breeder(**changes: str | None) -> str:
    """A `breeder.lmql`, with queries replaced, or left out where None."""
    queries: dict[str, tuple[str, list[str]]] = {
        "fitness_test_template": (FITNESS, ["system_prompt", "text", "question", "task_prompt", "reasoning_prompt"]),
        "mutation_direct": (DIRECT + WRITES, ["mutation_prompt", "thinking_style", "task_description", "task_prompt"]),
        "mutation_eda_based": (LISTED + WRITES, ["mutation_prompt", "eda_method", "task_prompts"]),
        "mutation_lamarckian": (LAMARCKIAN + WRITES, ["mutation_prompt", "correct_reasonings", "task_prompt"]),
        "hypermutation_zero_order_direct": (HYPER, ["thinking_style", "task_description"]),
    }
    parts = ["{", "  # a breeder in Hjson"]
    for name, (query, arguments) in queries.items():
        text = changes.get(name, query)
        if text is not None:
            parts.append(f"  \"{name}\":\n  '''\n{text}\n  ''',\n  \"{name}_args\": {json.dumps(arguments)},")
            parts.append("  ####")
    return "\n".join([*parts, "}"])
