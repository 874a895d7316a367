"""The four APIs on the wire: bodies as the requests they mean, and completions as replies. Pure functions."""
