"""The pools that a new installation has, and the security profile of each (seed 2, "Security")."""

from collections.abc import Mapping
from dataclasses import dataclass

from agentpool.registry.states import FileAccess, NetworkAccess


@dataclass(frozen=True)
class Profile:
    """What agents of a type may use, reach and write; memory in MB, CPU in cores."""

    description: str
    allowed_tools: tuple[str, ...]
    network_access: NetworkAccess
    file_access: FileAccess
    memory_mb: int
    cpu_cores: float


DEFAULT_PROFILES: Mapping[str, Profile] = {
    "design": Profile(
        description="Turns stories into plans.",
        allowed_tools=("read", "write_docs", "web_fetch"),
        network_access=NetworkAccess.LIMITED,
        file_access=FileAccess.READ_ONLY,
        memory_mb=1024,
        cpu_cores=1,
    ),
    "qa": Profile(
        description="Writes the tests that must fail first.",
        allowed_tools=("read", "test_execution", "coverage_analysis"),
        network_access=NetworkAccess.TEST_ONLY,
        file_access=FileAccess.READ_WRITE_TESTS,
        memory_mb=2048,
        cpu_cores=2,
    ),
    "code": Profile(
        description="Makes the tests pass.",
        allowed_tools=("read", "write", "git", "test_execution"),
        network_access=NetworkAccess.LIMITED,
        file_access=FileAccess.READ_WRITE_SOURCE,
        memory_mb=4096,
        cpu_cores=2,
    ),
    "data": Profile(
        description="Measures, reports, merges.",
        allowed_tools=("read", "write_data", "query", "plot"),
        network_access=NetworkAccess.LIMITED,
        file_access=FileAccess.READ_ONLY,
        memory_mb=4096,
        cpu_cores=2,
    ),
}

# Any other type: trusted with little until somebody says more.
SAFE_PROFILE = Profile(
    description="",
    allowed_tools=("read",),
    network_access=NetworkAccess.NONE,
    file_access=FileAccess.READ_ONLY,
    memory_mb=1024,
    cpu_cores=1,
)
