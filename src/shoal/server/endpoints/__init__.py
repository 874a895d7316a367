"""The endpoints that answer: chat completions, text completions, Anthropic's messages, and responses."""
