"""Allows the four pools' work the tools that the example's phases use, beyond what they may now."""

from agentpool.client import Client

# All phases commit and push, and their own tools are Python.
TOOLS = {
    "design": {"git", "python"},
    "qa": {"git", "test_execution"},
    "code": {"git", "test_execution"},
    "data": {"git", "test_execution", "coverage_analysis"},
}


def main() -> None:
    """Change the profiles that lack a tool; may be repeated."""
    with Client() as client:
        for agent_type, needed in TOOLS.items():
            allowed = client.profile(agent_type)["allowed_tools"]
            if missing := sorted(needed - set(allowed)):
                client.change_profile(agent_type, changes={"allowed_tools": [*allowed, *missing]})


if __name__ == "__main__":
    main()
