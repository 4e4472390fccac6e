"""One lease: what it was granted, what it uses, how far it is, and what its work prints."""

import re

from agentpool.console import actions, page
from agentpool.console.page import Params, Picture
from agentpool.console.pages._rows import lease_row
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Lease, LogChunk
from agentpool.registry.states import LIVE, NetworkAccess
from balancing import queries

# Of the end of the log; all that is kept can be read by REST and the command line.
CHUNKS_SHOWN = 1000
# Colours and moves of the cursor, which mean something to a terminal only.
_FOR_TERMINALS = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\^_])")


def picture(params: Params) -> Picture:
    """Return one lease; raises NotFound."""
    lease = queries.lease(page.row_id(params))
    newest = LogChunk.objects.filter(lease=lease).order_by("-id")[: CHUNKS_SHOWN + 1]
    chunks = list(reversed(newest))
    return {
        "now": registry_queries.now(),
        "lease": lease,
        "subject": f"{lease.cycle_id or lease.project} {lease.phase}".rstrip(),
        "row": lease_row(lease),
        "doable": [action.name for action in actions.offered(actions.work.LEASE, [lease])],
        "is_live": lease.status in LIVE,
        "network": NetworkAccess(lease.network).name.lower().replace("_", " "),
        "isolation": queries.isolation_of(lease),
        "incidents": [
            {
                "kind": event.kind.removeprefix("security.").replace("_", " "),
                "what": event.detail.get("what", ""),
                "at": event.at,
            }
            for event in queries.incidents_of(lease)
        ],
        "locks": sorted(lease.locks.values_list("key", flat=True)),
        "siblings": _siblings(lease),
        "chunks": [
            {"dom_id": f"chunk-{chunk.id}", "stream": chunk.stream, "text": _plain(chunk.text)}
            for chunk in chunks[-CHUNKS_SHOWN:]
        ],
        "has_older": len(chunks) > CHUNKS_SHOWN,
        "dropped_bytes": registry_queries.dropped_bytes(lease),
    }


def _siblings(lease: Lease) -> int:
    """Return how many leases its cycle has had."""
    if not lease.cycle_id:
        return 0
    return Lease.objects.filter(project=lease.project, cycle_id=lease.cycle_id).count()


def _plain(text: str) -> str:
    return _FOR_TERMINALS.sub("", text)
