"""Prompts that are bred: PromptBreeder (arXiv:2309.16797), and GEPA on the same engine."""
