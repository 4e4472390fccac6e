"""What Django-Q runs for the registry: the canary, the samples, the daily clean-up."""

from agentpool.registry import collecting, services


def canary() -> None:
    """Prove that the job cluster works: `readyz` and the supervisor look at this tick."""
    services.tick("jobs")


def sample() -> int:
    """Count what has happened, and read each pool; harmless when it is not time to."""
    return collecting.collect()


def prune() -> dict[str, int]:
    """Delete what is older than its kept time."""
    return {**services.prune(), "samples": collecting.prune()}
