"""
Small files that bubblewrap writes into a sandbox's own root, each from a descriptor.

A mount costs a sandbox half a millisecond, more the more there are; a small file costs nothing.
"""

import contextlib
import functools
import os
import py_compile
import tempfile
from collections.abc import Iterator
from pathlib import Path


class Given:
    """The descriptors of what is written into one sandbox; bubblewrap reads each once."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def text(self, content: bytes, place: str, *, mode: str = "0444") -> list[str]:
        """Return bubblewrap's words for a file with this content."""
        number = os.memfd_create("given")
        self.numbers.append(number)
        os.write(number, content)
        os.lseek(number, 0, os.SEEK_SET)
        return ["--perms", mode, "--file", str(number), place]

    def copy(self, file: str, place: str) -> list[str]:
        """Return the words for a copy of a file of this machine; none where it has none such."""
        try:
            number = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return []
        self.numbers.append(number)
        return ["--perms", "0444", "--file", str(number), place]

    def arguments(self, words: list[str]) -> int:
        """Return a descriptor of bubblewrap's own words: on a command line all could read them."""
        number = os.memfd_create("arguments")
        self.numbers.append(number)
        os.write(number, "\0".join([*words, ""]).encode("utf-8", "surrogateescape"))
        os.lseek(number, 0, os.SEEK_SET)
        return number

    def close(self) -> None:
        """Close them, once bubblewrap has its own."""
        for number in self.numbers:
            os.close(number)
        self.numbers = []


@contextlib.contextmanager
def given() -> Iterator[Given]:
    """Hold what is given for as long as it takes to start a sandbox."""
    found = Given()
    try:
        yield found
    finally:
        found.close()


@functools.cache
def compiled(file: Path) -> bytes:
    """Return a source as bytecode that stands by itself, without what asserts and docs take."""
    with tempfile.NamedTemporaryFile(suffix=".pyc") as target:
        py_compile.compile(
            str(file),
            cfile=target.name,
            dfile=file.name,
            doraise=True,
            optimize=2,
            # There is no source to check it against.
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        return Path(target.name).read_bytes()
