"""Starts the runtime; imports little, because many of them share one machine."""

import sys
from collections.abc import Sequence

from agentpool.agent import journal, options


def main(argv: Sequence[str] | None = None) -> int:
    """Run an agent with these command line arguments and return its exit code."""
    said = options.parse(sys.argv[1:] if argv is None else argv)
    # Imported here: --help and a wrong option answer without the websocket library.
    from agentpool.agent import enrolment, runtime
    from agentpool.client import config

    try:
        return runtime.Runtime(said).run()
    except (enrolment.CannotStart, config.ConfigInvalid) as error:
        journal.note("agent.cannot_start", reason=str(error))
        return runtime.CANNOT_START


if __name__ == "__main__":
    sys.exit(main())
