"""Who asks: their keys, what those cover, and what they spent."""
