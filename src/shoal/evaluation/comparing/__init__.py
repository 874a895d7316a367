"""Techniques side by side on the same rows: what each gets right, what it costs, and whether the difference is real."""
