"""What Django-Q runs for scaling."""

from scaling import evaluation, services


def reconcile() -> dict[str, int]:
    """Start what is intended, stop what shall go, settle what a crash left in between."""
    return services.reconcile()


def evaluate() -> dict[str, str]:
    """Decide how large each pool should be, and set it in motion where its mode is auto."""
    return evaluation.evaluate()
