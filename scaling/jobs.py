"""What Django-Q runs for scaling."""

from scaling import services


def reconcile() -> dict[str, int]:
    """Start what is intended, stop what shall go, settle what a crash left in between."""
    return services.reconcile()
