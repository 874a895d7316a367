"""The prompts of a unit as mutations see them: those that are bred, in one list, and back.

A unit's task prompts are bred, and its system prompt where the task has none of its own. Queries write each prompt by
itself, as the paper has it, or all of a unit at once, as folders converted from LMQL do: then a unit's prompts are one
text, with a label before each.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from shoal.evolution.replies import cleaned
from shoal.evolution.unit import Unit

PARTS = ("system_prompt", "task_prompt", "reasoning_prompt")
_LABEL = re.compile(r"\b(system|task|reasoning)[ _-]prompt\s*:", re.IGNORECASE)


class Genome(Struct, frozen=True):
    """Which prompts of a unit are bred: `steps` task prompts, and with `system` the system prompt before them.

    With `whole` they are written all at once.
    """

    steps: int
    system: bool = False
    whole: bool = False

    @property
    def count(self) -> int:
        """How many texts a founder needs."""
        return 1 if self.whole else self.steps + self.system

    def part(self, index: int) -> str:
        """What the text of that index is, in the words of queries."""
        return PARTS[min(index + (not self.system), 2)]

    def seen(self, unit: Unit) -> Unit:
        """The unit with all that is bred as its task prompts."""
        if self.whole:
            return structs.replace(unit, task_prompts=(self.text(unit),))
        return structs.replace(unit, task_prompts=(unit.system_prompt, *unit.task_prompts)) if self.system else unit

    def unseen(self, changed: Unit, before: Unit) -> Unit:
        """The unit whose prompts are as `changed` has them; what it has no text for is as it was `before`."""
        if not self.whole:
            system, *prompts = changed.task_prompts if self.system else (before.system_prompt, *changed.task_prompts)
            return structs.replace(changed, system_prompt=system, task_prompts=tuple(prompts))
        old = (before.system_prompt, *before.task_prompts, *[""] * self.steps)
        new = {part: text for part, text in _parts(changed.task_prompts[0]).items() if text}
        system, *prompts = (new.get(part, was) for part, was in zip(PARTS, old, strict=False))
        kept = system if self.system else before.system_prompt
        return structs.replace(changed, system_prompt=kept, task_prompts=tuple(prompts[: self.steps]))

    def text(self, unit: Unit) -> str:
        """The prompts of a unit as one text."""
        prompts = dict(zip(PARTS, (unit.system_prompt if self.system else "", *unit.task_prompts), strict=False))
        return labelled(prompts)


def writes_all(names: Iterable[str]) -> bool:
    """Whether a query with outputs of these names writes more than a task prompt."""
    return not {"system_prompt", "reasoning_prompt"}.isdisjoint(names)


def labelled(prompts: Mapping[str, Any]) -> str:
    """Prompts by part as one text, a line each."""
    texts = {part: " ".join(cleaned(str(prompts[part])).split()) for part in PARTS if prompts.get(part)}
    return "\n".join(f"{part.upper()}: {text}" for part, text in texts.items())


def _parts(text: str) -> dict[str, str]:
    """Prompts by part; a text without labels is a task prompt."""
    before, *pieces = _LABEL.split(text)
    if not pieces:
        return {"task_prompt": cleaned(before)}
    labels: Sequence[str] = [f"{word.lower()}_prompt" for word in pieces[::2]]
    return {label: cleaned(content) for label, content in zip(labels, pieces[1::2], strict=True)}
