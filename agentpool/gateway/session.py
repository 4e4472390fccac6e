"""Who speaks on one connection, and for whom a message may speak: as REST would have it."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from agentpool.registry import repeats
from agentpool.registry.credentials import Known
from agentpool.registry.errors import Forbidden, Invalid, Unauthenticated
from agentpool.registry.states import Scope

Message = Mapping[str, Any]
# Tuples, for an enum's hash costs more than to compare it with each.
_ASKERS = (Scope.ORCHESTRATOR, Scope.OPERATOR)
_READERS = (*_ASKERS, Scope.VIEWER)


class Speaker:
    """
    One token that has said hello; small, for a host speaks for hundreds of agents.

    agent and key: the row of the agent whose credential it is, key as text; said_at: the loop's
    time of its newest sign of life that is not written yet; seal: what seals answers that are kept
    for it (`repeats`), b"" for agents, which make nothing.
    """

    __slots__ = ("agent", "credential", "incarnation", "key", "name", "said_at", "scope", "seal")

    def __init__(self, known: Known, *, token: str = "") -> None:
        self.scope = Scope(known.scope)
        self.name = known.agent_id or f"token:{known.hint}"
        self.agent: UUID | None = known.agent
        self.key = str(known.agent or "")
        self.incarnation = known.incarnation or 0
        self.credential = known.credential
        self.said_at = 0.0
        self.seal = b"" if known.agent else repeats.seal_of(f"Bearer {token}")

    @property
    def is_operator(self) -> bool:
        """Whether everything is allowed."""
        return self.scope is Scope.OPERATOR


class Session:
    """Who speaks on one connection: agents that said hello, and perhaps an orchestrator."""

    def __init__(self) -> None:
        self.agents: dict[str, Speaker] = {}
        self.orchestrator: Speaker | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nobody has said hello here."""
        return self.orchestrator is None and not self.agents

    def bind(self, speaker: Speaker) -> None:
        """This will let the connection speak for a token."""
        if speaker.agent is None:
            self.orchestrator = speaker
        else:
            self.agents[speaker.name] = speaker

    def bound(self, name: object) -> Speaker | None:
        """Return the agent of a name, or the only one when none is said; None: not here."""
        if name is None:
            return next(iter(self.agents.values())) if len(self.agents) == 1 else None
        return self.agents.get(name) if type(name) is str else None

    def agent(self, message: Message) -> Speaker:
        """
        Return the agent that a message speaks for.

        Raises: Unauthenticated, nobody has said hello; Invalid, which one is not said; Forbidden.
        """
        name = message.get("agent_id")
        speaker = self.bound(name)
        if speaker is not None:
            return speaker
        if self.agents and name is None:
            said = f"{len(self.agents)} agents speak here: name one."
            raise Invalid(said, errors=[("agent_id", "This field is required.")])
        if self.agents:
            raise Forbidden("An agent's credential is good for itself only.")
        if self.orchestrator is not None:
            raise Forbidden(f"The scope {self.orchestrator.scope} may not speak for an agent.")
        raise Unauthenticated(f"{name or 'No agent'} has not said hello on this connection.")

    def asker(self, *, reads: bool = False) -> Speaker:
        """
        Return who asks for agents here; reads: it only wants to look.

        Raises: Unauthenticated, nobody has said hello; Forbidden, its scope may not.
        """
        speaker = self.orchestrator or next(iter(self.agents.values()), None)
        if speaker is None:
            raise Unauthenticated("Say hello with an orchestrator's token first.")
        if speaker.scope not in (_READERS if reads else _ASKERS):
            raise Forbidden(f"The scope {speaker.scope} may not ask for agents.")
        return speaker

    def holder(self) -> Speaker:
        """
        Return an orchestrator or operator, that a lease may belong to.

        Raises: Unauthenticated, nobody has said hello; Forbidden, its scope holds nothing.
        """
        if self.orchestrator is None:
            raise Unauthenticated("Say hello first.")
        if self.orchestrator.scope not in _ASKERS:
            raise Forbidden(f"The scope {self.orchestrator.scope} may not hold leases.")
        return self.orchestrator
