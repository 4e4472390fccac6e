"""The `agentpool` command: thin, over client, agent and host."""
