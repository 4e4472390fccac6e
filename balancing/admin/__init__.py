"""Admin pages of whatever moves work: agents, requests, leases, limits, shares, records."""

from balancing.admin import agents, leases, limits, rebalancing, records, requests

__all__ = ["agents", "leases", "limits", "rebalancing", "records", "requests"]
