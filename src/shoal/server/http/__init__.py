"""Connections, the guard that every request passes, and replies that stream: what is no API's own."""
