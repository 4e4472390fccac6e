"""How commands reach the control plane."""

from agentpool.client import Client

# Long enough for a restart of the server that somebody just made; a person waits at the prompt.
_PATIENCE_S = 4.0


def client() -> Client:
    """Return a client for the address and token of the environment or the user's config file."""
    # A command makes a call or two and ends: a connection that stays gains it nothing.
    return Client(patience_s=_PATIENCE_S, gateway=False)
