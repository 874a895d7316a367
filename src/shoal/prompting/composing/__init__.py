"""Composable prompts: Jinja templates with calls inside, and prompts put together with `+`."""

from shoal.prompting.composing import chain as c

__all__ = ["c"]  # as it is written: "Q: " + c.generate_text()
