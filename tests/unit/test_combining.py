"""Threads that call together share one call, and nothing of what it raises."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentpool.registry.errors import RateLimited
from balancing.services.combining import Combined


def test_each_of_many_gets_an_error_of_its_own():
    everybody = threading.Barrier(4)
    calls = []

    def fail(items):
        calls.append(len(items))
        if len(calls) == 1:
            everybody.wait(10)  # the others come meanwhile
        raise RateLimited("too many", retry_after_s=3)

    call = Combined(fail, most=10)

    def first(item):
        with pytest.raises(RateLimited) as caught:
            call(item)
        return caught.value

    def later(item):
        everybody.wait(10)
        return first(item)

    with ThreadPoolExecutor(4) as threads:
        got = [threads.submit(first, 0), *(threads.submit(later, n) for n in range(1, 4))]
        errors = [one.result(20) for one in got]

    assert len({id(error) for error in errors}) == 4
    assert {(error.detail, error.retry_after_s) for error in errors} == {("too many", 3)}
