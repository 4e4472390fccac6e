"""Ask a Postgres server whether it takes connections, as libpq's ping does, without a driver."""

import enum
import socket
import struct
from pathlib import Path

_PROTOCOL_3_0 = 196608
_CANNOT_CONNECT_NOW = b"C57P03\0"


class Answer(enum.Enum):
    """What a server said to a new connection."""

    ACCEPTING = "accepting"
    STARTING = "starting"
    SILENT = "silent"


def ask(
    *, port: int, socket_folder: Path | None, user: str, database: str, timeout_s: float = 2.0
) -> Answer:
    """
    Return the server's answer to a real connection (stopped before the password).

    Process ids prove nothing: `pg_ctl status` counts a zombie as alive, and a stopped or hung
    postmaster has one too.

    Args:
        port: TCP port on 127.0.0.1, and the number in the name of the socket file.
        socket_folder: ask there instead of by TCP; None when the server has no socket.
        timeout_s: silence longer than this, in seconds, is an answer.

    """
    names = b"user\0%s\0database\0%s\0\0" % (user.encode(), database.encode())
    packet = struct.pack("!ii", 8 + len(names), _PROTOCOL_3_0) + names
    try:
        with _connection(port=port, folder=socket_folder, timeout_s=timeout_s) as connection:
            connection.sendall(packet)
            reply = connection.recv(1024)
    except OSError:
        return Answer.SILENT
    return _meaning(reply)


def _connection(*, port: int, folder: Path | None, timeout_s: float) -> socket.socket:
    if folder is None:
        return socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    try:
        connection.connect(str(folder / f".s.PGSQL.{port}"))
    except OSError:
        connection.close()
        raise
    return connection


def _meaning(reply: bytes) -> Answer:
    if not reply:
        return Answer.SILENT
    if reply[:1] == b"E" and _CANNOT_CONNECT_NOW in reply:  # starting up or shutting down
        return Answer.STARTING
    # Any other error (too many connections, say) comes from a server that is at work.
    return Answer.ACCEPTING if reply[:1] in (b"R", b"E") else Answer.SILENT
