"""What Django-Q runs for the registry: the canary, the samples, the daily clean-up."""

from agentpool.registry import services


def canary() -> None:
    """Prove that the job cluster works: `readyz` and the supervisor look at this tick."""
    services.tick("jobs")


def sample() -> int:
    """Store one reading of each pool."""
    return services.sample_pools()


def prune() -> dict[str, int]:
    """Delete what is older than its kept time."""
    return services.prune()
