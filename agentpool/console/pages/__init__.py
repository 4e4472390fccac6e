"""The pages of the console, in one table."""

from collections.abc import Mapping

from agentpool.console.page import Page
from agentpool.console.pages import (
    agent,
    agents,
    cycle,
    decisions,
    lease,
    leases,
    overview,
    queue,
    request,
    resources,
    settings,
)

PAGES: Mapping[str, Page] = {
    page.name: page
    for page in (
        Page(
            "overview", "", "Overview", "console/overview.html", overview.picture, menu="Overview"
        ),
        Page(
            "agents",
            "agents",
            "Agents",
            "console/agents.html",
            agents.picture,
            kinds=("agent.", "lease.", "pool."),
            params=agents.PARAMS,
            menu="Agents",
        ),
        Page(
            "queue",
            "queue",
            "Queue",
            "console/queue.html",
            queue.picture,
            kinds=("request.", "lease.", "agent.", "limit."),
            params=queue.PARAMS,
            menu="Queue",
        ),
        Page(
            "leases",
            "leases",
            "Leases",
            "console/leases.html",
            leases.picture,
            kinds=("lease.",),
            params=leases.PARAMS,
            menu="Leases",
        ),
        Page(
            "cycles",
            "cycles",
            "Cycles",
            "console/cycles.html",
            cycle.picture,
            kinds=("request.", "lease."),
            params=cycle.PARAMS,
            menu="Cycles",
        ),
        Page(
            "decisions",
            "decisions",
            "Decisions",
            "console/decisions.html",
            decisions.picture,
            kinds=("lease.",),
            params=decisions.PARAMS,
            menu="Decisions",
        ),
        Page(
            "resources",
            "resources",
            "Resources",
            "console/resources.html",
            resources.picture,
            kinds=("lease.", "agent.", "limit."),
            menu="Resources",
        ),
        Page(
            "settings",
            "settings",
            "Settings",
            "console/settings.html",
            settings.picture,
            kinds=("pool.", "profile.", "agent.registered", "token."),
            menu="Settings",
        ),
        Page(
            "agent",
            "agents/<uuid:id>",
            "Agent",
            "console/agent.html",
            agent.picture,
            kinds=("agent.", "lease.", "profile."),
            params=agent.PARAMS,
            topic=agent.topic,
            has_charts=True,
        ),
        Page(
            "lease",
            "leases/<uuid:id>",
            "Lease",
            "console/lease.html",
            lease.picture,
            topic=lambda params: f"lease:{params['id']}",
            ignores=(),
        ),
        Page(
            "request",
            "requests/<uuid:id>/",
            "Request",
            "console/request.html",
            request.picture,
            topic=lambda params: f"request:{params['id']}",
        ),
    )
}
