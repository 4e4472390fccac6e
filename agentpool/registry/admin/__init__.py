"""The admin's frame, and the pages of facts: pools, profiles, credentials, events, logs, people."""

from agentpool.registry.admin import facts, jobs, people, pools, tokens

__all__ = ["facts", "jobs", "people", "pools", "tokens"]
