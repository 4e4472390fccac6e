"""Doors for programs that stay: the websocket, and REST calls that wait."""
