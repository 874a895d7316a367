"""The public API in typed code: never run, only type-checked."""
