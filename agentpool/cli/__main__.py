"""Lets `python -m agentpool.cli` do what `agentpool` does."""

import sys

from agentpool.cli.main import main

sys.exit(main())
