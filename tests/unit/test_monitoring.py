"""The documents, the dashboard and the alerts name what /metrics tells, and nothing else."""

import json
import re
from pathlib import Path

import pytest
import yaml

from agentpool.registry import exposition
from tests.unit.test_docs import page, rows

MONITORING = Path(exposition.__file__).resolve().parents[1] / "monitoring"
ENDINGS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def told():
    """Each name that /metrics may tell, with its labels."""
    kinds = (("counter", exposition.COUNTERS), ("histogram", exposition.HISTOGRAMS))
    found = {}
    for kind, families in (*kinds, ("gauge", exposition.GAUGES)):
        for name, _, labels in families:
            for ending in ENDINGS[kind]:
                more = {"le"} if ending == "_bucket" else set()
                found[name + ending] = {*labels, *more}
    return found


def test_every_name_is_in_the_documents():
    in_page = {
        row[0].strip("`"): (row[1], set(row[2].strip("`").split()) - {"–"})
        for row in rows(page("metrics.md"), "## Prometheus")
    }
    kinds = {"counter": exposition.COUNTERS, "histogram": exposition.HISTOGRAMS}
    kinds["gauge"] = exposition.GAUGES
    ending = {"counter": "_total", "histogram": "", "gauge": ""}

    assert in_page == {
        name + ending[kind]: (kind, set(labels))
        for kind, families in kinds.items()
        for name, _, labels in families
    }


def expressions():
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"], str(rule["annotations"])


# Functions and keywords of PromQL that the files use; anything else must be a name or a label.
PROMQL = {"by", "histogram_quantile", "increase", "rate", "sum", "time"}


@pytest.mark.parametrize(("title", "expr", "words"), list(expressions()), ids=lambda x: str(x)[:40])
def test_every_expression_asks_for_what_is_told(title, expr, words):
    names = set(re.findall(r"\bagentpool_\w+", expr))
    known = told()

    assert names <= set(known), title
    labels = set.intersection(*(known[name] for name in names)) | {"le"}
    used = {label for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(", ")}
    for name, selector in re.findall(r"\b(agentpool_\w+)\{([^}]*)\}", expr):
        assert set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", selector)) <= known[name], title
    legends = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", words))
    assert used | legends <= labels, title
    bare = re.sub(r"\"[^\"]*\"|\[\w+\]|\{[^}]*\}|by \([^)]*\)", "", expr)
    assert set(re.findall(r"\b[a-z_]+\b", bare)) - names <= PROMQL, title
    assert expr.count("(") == expr.count(")")
    assert expr.count("{") == expr.count("}")


def test_every_family_is_drawn_or_watched():
    asked = " ".join(expr for _, expr, _ in expressions())

    assert [name for name, _, _ in exposition.families() if name not in asked] == []
