"""CPU seconds of process trees, also of those of their members that have ended."""

import psutil


def seconds(pid: int) -> float:
    """Return what a process, its descendants and its reaped children have used, seconds."""
    try:
        process = psutil.Process(pid)
        members = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    return sum(_of_one(member) for member in members)


def _of_one(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    # A backend that ends moves to its parent's account, so a sum never shrinks.
    return float(used.user + used.system + used.children_user + used.children_system)
