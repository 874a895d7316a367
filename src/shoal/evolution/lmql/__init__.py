"""Day Care folders written in LMQL, read and rewritten as templates; nothing in them is ever run."""
