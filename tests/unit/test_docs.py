"""Holds the documents against the code: what one says and the other does must not drift apart."""

import contextlib
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from django.urls import URLPattern, URLResolver

from agentpool import urls
from agentpool.cli import main as command_line
from agentpool.console import pages
from agentpool.registry import errors, states

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TOP = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")]
PAGES = sorted([*TOP, *DOCS.rglob("*.md"), *(ROOT / "examples").glob("*/README.md")])
BASE = "/api/agent-pool"
MACHINES = {
    "agent": (states.AgentStatus, states.AGENT_MOVES),
    "request": (states.RequestStatus, states.REQUEST_MOVES),
    "lease": (states.LeaseStatus, states.LEASE_MOVES),
    "launch": (states.LaunchStatus, states.LAUNCH_MOVES),
}
# An event's kind, paths of the interface and of the data folder: they only look like our files.
NOT_NAMES = {
    "scaling.executed",
    "scaling.policy_changed",
    "scaling.announced",
    "scaling/execute",
    "agentpool/config.toml",
}
# Addresses that files may name: reserved for examples, of this machine, or of a standard.
HOSTS = re.compile(
    r"(?:[\w.-]+\.)?example(?:\.(?:org|com|net))?|[\w-]+|[\d.]+|\[.*|.*\{.*|www\.(?:w3|apache)\.org"
)
# Places that only exist on the machine of whoever wrote the file.
PLACES = re.compile(
    "|".join(
        [
            *(rf"(?<![\w.}})-]){re.escape(str(place))}/" for place in (ROOT, Path.home())),
            r"/(?:home|Users)/[a-z][\w-]*/",
            r"--(?:extra-)?index-url[ =]\S+",
        ]
    )
)


def page(name):
    return (DOCS / name).read_text()


def rows(text, heading=None):
    """The cells of all tables, or of the one below a heading, without their head lines."""
    if heading is not None:
        assert f"\n{heading}\n" in text, f"no heading {heading!r}"
        text = re.split(r"\n#+ ", text.split(f"\n{heading}\n", 1)[1])[0]
    lines = re.findall(r"^\|(.+)\|$", text, flags=re.M)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    ruled = [number for number, row in enumerate(cells) if set("".join(row)) <= {"-"}]
    heads = {number - 1 for number in ruled} | set(ruled)
    return [row for number, row in enumerate(cells) if number not in heads]


def quoted(text):
    return re.findall(r"`([^`]+)`", text)


def resolve(dotted):
    """Import the longest module of a dotted name, then look the rest up as attributes."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name and not dotted.startswith(error.name):
                raise
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(dotted)


def slug(heading):
    """The anchor that a heading gets."""
    plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return plain.strip().replace(" ", "-")


def api_paths(patterns, prefix=""):
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from api_paths(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            yield re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)


def texts():
    """The files that are, or are to be, in the repository, with their text."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if path.is_file():
            with contextlib.suppress(UnicodeDecodeError):
                yield name, path.read_text()


def commands(group, path=()):
    """Every command below a click group, as tuples of words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


# -- settings and errors ---------------------------------------------------------------------------


def test_every_setting_that_is_read_is_in_the_settings_page():
    read = set(re.findall(r'"(AGENTPOOL_[A-Z_]+)"', (ROOT / "agentpool/settings.py").read_text()))
    told = {row[0].strip("`") for row in rows(page("settings.md"))}

    assert read - told == set()


def test_defaults_in_the_settings_page_are_those_of_the_code():
    source = (ROOT / "agentpool/settings.py").read_text()
    code = dict(re.findall(r'_number\("(AGENTPOOL_[A-Z_]+)", ([\d_.]+)\)', source))
    told = {row[0].strip("`"): row[1] for row in rows(page("settings.md"))}

    assert {name: float(value) for name, value in code.items()} == {
        name: float(told[name]) for name in code
    }


def test_every_name_in_the_settings_page_is_read_somewhere():
    folders = (ROOT / "agentpool", ROOT / "scaling", ROOT / "balancing")
    sources = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
    told = {row[0].strip("`") for row in rows(page("settings.md"))}

    assert {name for name in told if not any(f'"{name}"' in text for text in sources)} == set()


def test_every_error_code_is_in_the_errors_page_with_its_status():
    classes = errors.Refusal.__subclasses__()
    told = {(row[0].strip("`"), int(row[1])) for row in rows(page("errors.md"))}

    assert {(each.code, each.status) for each in classes} == told


# -- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MACHINES)
def test_every_move_is_in_the_states_page(name):
    _, moves = MACHINES[name]
    told = rows(page("states.md"), f"### {name.capitalize()} moves")
    legal = {(str(a), str(b)) for a, following in moves.items() for b in following}

    assert legal == {(row[0].strip("`"), row[1].strip("`")) for row in told}


@pytest.mark.parametrize("name", MACHINES)
def test_every_arrow_of_a_diagram_is_that_of_the_table(name):
    below = page("states.md").split(f"### {name.capitalize()} moves", 1)[1]
    diagram = below.split("```mermaid", 1)[1].split("```", 1)[0]
    drawn = re.findall(r"^ +(\w+) --> (\w+)(?:: ([A-Z ]+))?$", diagram, flags=re.M)
    told = rows(page("states.md"), f"### {name.capitalize()} moves")

    assert sorted((a, b, arrows or "–") for a, b, arrows in drawn) == sorted(
        (row[0].strip("`"), row[1].strip("`"), row[2]) for row in told
    )


@pytest.mark.parametrize("name", MACHINES)
def test_every_arrow_names_a_service_that_exists(name):
    text = page("states.md")
    causes = {row[0]: row[1].strip("`") for row in rows(text, f"### Causes of {name} moves")}
    used = {
        letter
        for row in rows(text, f"### {name.capitalize()} moves")
        for letter in row[2].replace("–", "").split()
    }

    assert used == set(causes)
    assert all(callable(resolve(service)) for service in causes.values())


@pytest.mark.parametrize(
    ("heading", "values"),
    [
        ("## Agent: status", states.AgentStatus),
        ("## Agent: health", states.AgentHealth),
        ("## Request", states.RequestStatus),
        ("## Lease", states.LeaseStatus),
        ("## Launch", states.LaunchStatus),
    ],
)
def test_every_status_has_a_row_in_the_states_page(heading, values):
    told = [row[0].strip("`") for row in rows(page("states.md"), heading)]

    assert [str(value) for value in values] == told


def test_work_is_said_to_be_placed_where_it_is():
    told = rows(page("states.md"), "## Agent: status")
    placeable = {row[0].strip("`") for row in told if row[3].startswith("yes")}

    assert {str(status) for status in states.PLACEABLE_STATUS} == placeable


# -- interface -------------------------------------------------------------------------------------


def test_every_path_of_the_interface_is_in_the_api_page():
    there = {BASE + path for path in api_paths(urls.api)}
    told = {path for row in rows(page("api.md")) for path in re.findall(rf"{BASE}\S*", row[0])}

    assert there == {path.strip("`") for path in told}


def test_every_op_of_the_gateway_is_in_its_page():
    from agentpool.gateway import ops

    told = {row[0].strip("`") for row in rows(page("gateway.md"), "## Ops")}

    assert set(ops.NAMES) == told


def test_every_method_of_a_driver_is_in_its_page():
    from scaling.drivers import Driver, Spec

    methods = {name for name in vars(Driver) if not name.startswith("_")}
    told = {quoted(row[0])[0].split("(")[0] for row in rows(page("drivers.md"), "## The protocol")}

    assert methods == told
    assert set(Spec.__dataclass_fields__) <= set(page("drivers.md").replace("`", " ").split())


def test_every_variable_of_the_work_is_in_the_agents_page():
    source = (ROOT / "agentpool/agent/contract.py").read_text()
    given = set(re.findall(r'"(AGENTPOOL_[A-Z_]+[A-Z])"', source))

    assert {name for name in given if f"`{name}`" not in page("agents.md")} == set()


def test_every_key_of_a_cycles_file_is_in_its_page():
    from agentpool.client import batch

    told = {name for row in rows(page("cycles.md")) for name in quoted(row[0])}

    assert {*batch._BATCH, *batch._PHASE, *batch._CYCLE} == told


# -- commands --------------------------------------------------------------------------------------


def test_every_command_of_the_server_is_in_the_documents():
    there = {
        path.stem
        for path in ROOT.glob("**/management/commands/[a-z]*.py")
        if ".venv" not in path.parts
    }
    told = {row[0].strip("`") for row in rows(page("operations.md"), "## Commands of the server")}

    assert there == told


def test_every_group_and_command_of_the_command_line_is_in_the_documents():
    text = "\n".join(path.read_text() for path in PAGES)
    missing = [
        " ".join(words)
        for words in commands(command_line.root)
        if f"agentpool {words[0]}" not in text or not re.search(rf"\b{words[-1]}\b", text)
    ]

    assert missing == []


def test_commands_and_options_in_the_documents_exist():
    known = set(commands(command_line.root))
    broken = []
    for path in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(), flags=re.S):
            broken += [line for line in block.splitlines() if not _can_be_run(line, known)]

    assert broken == []


def _can_be_run(line, known):
    if not line.startswith("agentpool "):
        return True
    words = shlex.split(line.replace("[", " ").replace("]", " "), comments=True)
    names = next((n for size in (2, 1) if (n := tuple(words[1 : 1 + size])) in known), None)
    if names is None:
        return False
    if names == ("agent", "run"):
        from agentpool.agent import options

        offered = {text for action in options._parser()._actions for text in action.option_strings}
    elif names in (("simulate",), ("make-trace",)):
        from django.core.management import load_command_class

        parser = load_command_class("scaling", names[0].replace("-", "_")).create_parser("", "")
        offered = {text for action in parser._actions for text in action.option_strings}
    else:
        command = command_line.root
        for name in names:
            command = command.get_command(click.Context(command), name)
        offered = {text for option in command.params for text in option.opts}
    return {word for word in words if word.startswith("--")} <= offered


# -- seed map, links, and what must not be there ---------------------------------------------------


def test_every_name_in_the_seed_map_exists():
    where = rows(page("seed-map.md"))
    names = [name for row in where for name in quoted(row[2]) if re.fullmatch(r"[\w.]+", name)]
    dotted = [name for name in names if name.split(".")[0] in ("agentpool", "balancing", "scaling")]

    assert len(dotted) > 100
    assert [name for name in dotted if not _exists(name)] == []
    assert [row[0] for row in where if not quoted(row[2]) and "planned: " not in row[2]] == []


def _exists(name):
    try:
        resolve(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_every_file_that_the_seed_map_names_exists():
    files = [*(ROOT / "balancing/sql").glob("*"), *(ROOT / "templates").rglob("*")]
    there = {path.name for path in files}
    told = set(re.findall(r"[\w/]+\.(?:sql|html)", page("seed-map.md")))

    assert {name.split("/")[-1] for name in told} - there == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)

    assert broken == []


def _anchors(file):
    text = re.sub(r"```.*?```", "", file.read_text(), flags=re.S)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, flags=re.M)}


def test_modules_and_files_in_the_documents_exist():
    broken = []
    for path in PAGES:
        for name in quoted(re.sub(r"```.*?```", "", path.read_text(), flags=re.S)):
            if re.fullmatch(r"(?:agentpool|balancing|scaling)(?:\.\w+)+", name):
                there = _exists(name) or name in NOT_NAMES
            elif re.fullmatch(
                r"(?:agentpool|balancing|scaling|docs|tests|examples)/[\w./-]+", name
            ):
                there = (ROOT / name).exists() or name in NOT_NAMES or re.search("NAME|NOUN", name)
            else:
                continue
            broken += [] if there else [f"{path.name}: {name}"]

    assert broken == []


def test_no_file_names_a_place_of_this_machine():
    broken = [f"{path}: {hit[0]}" for path, text in texts() for hit in PLACES.finditer(text)]

    assert broken == []


def test_no_file_names_a_host_that_is_not_an_example():
    # Above all none from which somebody's tools fetch packages.
    broken = [
        f"{path}: {host}"
        for path, text in texts()
        for host in re.findall(r"[a-z+]*https?://([^/\s\"'<>)`,;:]+)", text)
        if not HOSTS.fullmatch(host)
    ]

    assert broken == []


def test_every_page_of_the_console_is_told_with_what_draws_charts():
    told = (DOCS / "console.md").read_text()
    charts = re.search(r"Charts \(([^)]*)\)", told)
    assert charts

    paths = {page.name for page in pages.PAGES.values() if f"| `/{page.path}" not in told}
    drawn = {page.name for page in pages.PAGES.values() if page.has_charts}
    assert paths - {"agent", "lease", "request", "scaling_decision"} == set()
    assert drawn == set(charts[1].split(", "))
