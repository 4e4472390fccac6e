"""What Django-Q runs for scaling."""

from scaling import evaluation, optimizer, services


def reconcile() -> dict[str, int]:
    """Start what is intended, stop what shall go, settle what a crash left in between."""
    return services.reconcile()


def evaluate() -> dict[str, str]:
    """Decide how large each pool should be, and set it in motion where its mode is auto."""
    return evaluation.evaluate()


def optimize() -> dict[str, int]:
    """Propose what would help each pool, and measure what was done about it; each 5 minutes."""
    return optimizer.run()
