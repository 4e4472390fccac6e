"""Who plays in the world of `bench/balancing.py`: the product's strategies, and a reference."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import balancing_world as yardstick
import numpy as np

from balancing import estimate, kalman, scoring
from balancing.belief import Lesson, Model
from balancing.outlook import Average, Cell
from balancing.scoring import Candidate, Work

REFERENCE = "seed_least_loaded"
NAMES = [*scoring.STRATEGIES, REFERENCE]
# The world has no amounts: every task takes the share of one slot, and uses half of it.
ASK = Work(memory_mb=1024, cpu_cores=1, token_budget=50_000, disk_space_mb=500)
EFFICIENCY = 0.5
LEARNING = ("workload_aware", "predictive", "learnt")


def made(name: str) -> Callable[[int], Any]:
    """Return what makes a player from a seed."""
    return Reference if name == REFERENCE else partial(Product, name)


class Product:
    """One of the product's strategies, kept as the pool keeps it: loads, records, warmth."""

    def __init__(self, strategy: str, seed: int) -> None:
        self.strategy = strategy
        self.random = random.Random(seed)
        self.model = Model()
        # What the product writes down for the claim: of agents at kinds of work, and of kinds.
        self.cells: dict[tuple[str, str | None], Cell] = {}
        self.averages: dict[str, Average] = {}
        self.skills: dict[int, Sequence[bool]] = {}
        self.last_token = [0] * yardstick.AGENTS
        self.ended: dict[tuple[int, int], float] = {}
        self.tokens = 0

    def place(
        self,
        kind: int,
        free: Sequence[int],
        loads: Sequence[int],
        project: int,
        tags: Sequence[bool],
        now: float,
    ) -> int:
        """Return the best of the free agents; a kind of task is a story type and a tag."""
        drawn = [int(agent) for agent in free]
        if self.strategy == "best_of_k":
            drawn = self.random.sample(drawn, min(scoring.BEST_OF, len(drawn)))
        tag = f"kind-{kind}"
        self.skills[kind] = tags
        candidates = [
            self._candidate(
                agent, int(loads[agent]), kind, project, {tag} if tags[agent] else (), now
            )
            for agent in drawn
        ]
        work = replace(ASK, tags=frozenset({tag}))
        if self.strategy in LEARNING and tag not in self.averages:
            known = tag if tag in self.model.kinds else None
            self.averages[tag] = estimate.average(self.model, known)
        average = self.averages.get(tag)
        best, _ = scoring.rank(self.strategy, candidates, work, average)[0]
        agent = int(best.agent_id)
        self.tokens += 1
        self.last_token[agent] = self.tokens
        return agent

    def learn(
        self, agent: int, kind: int, project: int, duration_s: float, ok: bool, now: float
    ) -> None:
        """Take up the end of an attempt; write down what changed, as the product's job does."""
        self.ended[agent, project] = now
        if self.strategy not in LEARNING:
            return
        name, tag = f"{agent:02}", f"kind-{kind}"
        lesson = Lesson(
            agent=name,
            kind=tag,
            at=now,
            log_s=math.log(duration_s),
            successes=float(ok),
            match=scoring.match({tag} if self.skills[kind][agent] else (), {tag}),
            efficiency=EFFICIENCY,
        )
        kalman.learn(self.model, lesson, agents=yardstick.AGENTS)
        skill = self.model.skills[name]
        for each, cell in estimate.cells(self.model, skill).items():
            self.cells[name, each] = cell
        self.averages.clear()  # each is made anew when somebody asks

    def _candidate(
        self, agent: int, load: int, kind: int, project: int, skills: Any, now: float
    ) -> Candidate:
        slots, name = yardstick.SLOTS, f"{agent:02}"
        return Candidate(
            agent_id=name,
            load=load,
            max_concurrent=slots,
            memory_mb=slots * ASK.memory_mb,
            cpu_cores=slots * ASK.cpu_cores,
            token_budget=slots * ASK.token_budget,
            disk_space_mb=slots * ASK.disk_space_mb,
            used_memory_mb=load * ASK.memory_mb,
            used_cpu_cores=load * ASK.cpu_cores,
            used_token_budget=load * ASK.token_budget,
            used_disk_space_mb=load * ASK.disk_space_mb,
            capabilities=frozenset(skills),
            last_token=self.last_token[agent],
            warmth=self._warmth(agent, project, now),
            cell=self.cells.get((name, f"kind-{kind}")) or self.cells.get((name, None)),
        )

    def _warmth(self, agent: int, project: int, now: float) -> float:
        if (agent, project) not in self.ended:
            return 0.0
        age_s = now - self.ended[agent, project]
        return scoring.warmth(
            same_cycle=False, path_overlap=0, age_s=age_s, half_life_s=scoring.WARM_HALF_LIFE_S
        )


class Reference:
    """The least loaded agent, ties by lot: the yardstick's own example, in the same run."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def place(self, kind: int, free: Any, loads: Any, project: int, tags: Any, now: float) -> int:
        """Return one of the least loaded agents."""
        return int(free[int(np.argmin(loads[free] + self.rng.random(len(free)) * 0.5))])

    def learn(self, *outcome: Any) -> None:
        """Learn nothing."""
