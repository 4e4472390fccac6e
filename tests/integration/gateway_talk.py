"""How a program talks to the gateway, for the tests that are one."""

import itertools
import json
import time

SOON_S = 5.0  # what takes milliseconds may take this long on a machine that is busy with others


class Line:
    """One connection to the gateway: questions, answers, and what is pushed in between."""

    def __init__(self, socket):
        self.socket = socket
        self.pushed = []
        self._ids = itertools.count(1)

    def call(self, op, **fields):
        """Send an op and return its answer."""
        return self.send({"id": next(self._ids), "op": op, **fields})

    def send(self, message):
        text = message if isinstance(message, str) else json.dumps(message)
        self.socket.send(text)
        wanted = message.get("id") if isinstance(message, dict) else None
        return self._read(lambda m: "push" not in m and m["id"] == wanted)

    def push(self, kind, **having):
        """Return the next push of a kind with these values."""

        def fits(message):
            return message.get("push") == kind and having.items() <= message.items()

        return self._read(fits)

    def _read(self, fits):
        for message in self.pushed:
            if fits(message):
                self.pushed.remove(message)
                return message
        deadline = time.monotonic() + SOON_S
        while True:
            message = json.loads(self.socket.recv(timeout=max(0, deadline - time.monotonic())))
            if fits(message):
                return message
            self.pushed.append(message)


def refusal(answer, code):
    assert answer["ok"] is False, answer
    assert answer["error"]["code"] == code, answer
    return answer["error"]
