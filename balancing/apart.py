"""
Lets the pools learn at the same time, in processes of their own.

Pure. For learning all anew: pools know nothing of each other, and reading goes on meanwhile.
"""

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Self

from balancing import course
from balancing.course import Course, Row

# Below so many leases starting processes takes longer than learning.
LEAST_LEASES = 50_000
MOST_PROCESSES = 4


def processes(leases: int) -> int:
    """Return in how many processes to learn from so many leases; 0: in this one."""
    if leases < LEAST_LEASES:
        return 0
    return min(MOST_PROCESSES, len(os.sched_getaffinity(0)))


class Rooms:
    """
    Where courses are taught: a context, at whose end no process is left.

    A pool's lessons all go to the process that was given its course, in their order.
    """

    def __init__(self, count: int) -> None:
        self._here: dict[str, Course] = {}
        self._where: dict[str, Connection] = {}
        # Not forked: a fork would share the connection to the database.
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(count)]
        self._ends = [ours for ours, _ in pipes]
        self._running = [
            context.Process(target=_room, args=(theirs,), daemon=True) for _, theirs in pipes
        ]
        for process, (_, theirs) in zip(self._running, pipes, strict=True):
            process.start()
            theirs.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs."""
        for end, process in zip(self._ends, self._running, strict=True):
            end.close()
            process.terminate()
            process.join()

    def has(self, agent_type: str) -> bool:
        """Return whether a pool's course is open."""
        return agent_type in self._here or agent_type in self._where

    def open(self, pool: Course) -> None:
        """Take in a course."""
        if not self._ends:
            self._here[pool.agent_type] = pool
            return
        end = self._ends[len(self._where) % len(self._ends)]
        end.send(pool)
        self._where[pool.agent_type] = end

    def teach(self, agent_type: str, rows: Sequence[Row], *, is_old: bool) -> None:
        """Teach a pool; waits while its process has too much to do. Raises: OSError, it died."""
        if agent_type in self._here:
            _teach(self._here[agent_type], rows, is_old=is_old)
        else:
            self._where[agent_type].send((agent_type, rows, is_old))

    def courses(self) -> list[Course]:
        """Return all courses as they came out. Raises: EOFError, a process died."""
        for end in self._ends:
            end.send(None)
        found = list(self._here.values())
        for end in self._ends:
            found += end.recv()
        return found


def _room(end: Connection) -> None:
    """Teach what comes until there is no more; then answer what was learnt."""
    courses: dict[str, Course] = {}
    while (sent := end.recv()) is not None:
        if isinstance(sent, Course):
            courses[sent.agent_type] = sent
        else:
            agent_type, rows, is_old = sent
            _teach(courses[agent_type], rows, is_old=is_old)
    end.send(list(courses.values()))


def _teach(pool: Course, rows: Sequence[Row], *, is_old: bool) -> None:
    for lesson in course.told(rows):
        course.teach(pool, lesson, judges=False, is_old=is_old)
