"""Pages for people, and the websocket that keeps them live."""
