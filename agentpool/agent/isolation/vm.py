"""
The virtual machine tier: named in the interface, not built yet.

`missing` says so, hence no runtime announces the level, and a request for it is unsatisfiable.
"""

from agentpool.agent.isolation import Environment, IsolationUnavailable, Means, Spec


def create(spec: Spec) -> Environment:
    """Make nothing. Raises: IsolationUnavailable, always."""
    raise IsolationUnavailable(missing(spec.means))


def missing(means: Means) -> str:
    """Return that agentpool can't isolate this way yet, whatever the machine has."""
    return "agentpool does not have the virtual machine tier yet"


def remove_left(agent_id: str) -> int:
    """Return 0: nothing of this tier was ever made, so nothing of it can be left."""
    return 0
