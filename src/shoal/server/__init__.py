"""The server: every model, and every technique on one, behind the endpoints that clients know."""
