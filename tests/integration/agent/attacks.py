"""
Attacks on a tier: each is a small program that runs as the work of a lease of its own.

Run as a program it takes the name of the tier, makes a machine with something to steal in a folder
of its own, runs every attack in a new sandbox, and prints what happened as JSON. An attack that got
somewhere prints ESCAPED. All are bounded: what is not held back stops by itself. In
virtual machines, which start slowly, those that leave it as it was follow each other in one.
"""

import concurrent.futures
import http.server
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from agentpool.agent import contract
from agentpool.agent.isolation import Environment, Incident, Means, Spec, tier
from agentpool.agent.isolation.policy import policy_of

SECRET = "a-secret-of-somebody-else"
# No attack takes as long by itself. An emulated machine does on a busy host.
LONGEST_S = {"process": 20.0, "container": 20.0, "virtual_machine": 200.0}
PROFILE = {
    "allowed_tools": ["read", "test_execution"],
    "network_access": "limited",
    "file_access": "read_write_tests",
}
GRANT = {"memory_mb": 150, "cpu_cores": 1, "disk_space_mb": 20, "network": "full"}


@dataclass(frozen=True, kw_only=True)
class Attack:
    """
    The program, and what the sandbox must note of it (nothing: it is simply not there).

    env: more variables of the payload; {folder} stands for where the loot is. about: what the note
    says. group: those of one may share a machine.
    """

    code: str
    env: Mapping[str, str] = field(default_factory=dict)
    notes: str | None = None
    about: str = ""
    pids: int = 512
    group: str = "peaceful"


@dataclass(frozen=True, kw_only=True)
class Loot:
    """What there is to be had outside of the sandbox."""

    folder: Path
    pid: int
    closed_port: int
    open_port: int


ATTACKS: Mapping[str, Attack] = {
    # First in its machine: nothing has been noted there, nor is by what follows.
    "(no attack) reach a host that is on the list": Attack(
        code="""
        del os.environ['NO_PROXY'], os.environ['no_proxy']
        print(urllib.request.urlopen(f'http://127.0.0.1:{open_port}/', timeout=5).read().decode())
        """,
        group="odd",
    ),
    "have the loader write outside before the sandbox is shut": Attack(
        code="print('nothing to do')",
        env={"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": "{folder}/loader"},
        group="forks",
    ),
    "blind whoever notes, then trace the runtime": Attack(
        code="""
        door = socket.socket()
        libc.connect(door.fileno(), ctypes.c_char_p(b'\\x02\\x00'), 2)
        libc.connect(door.fileno(), ctypes.c_void_p(-1), 16)
        if libc.ptrace(16, pid, 0, 0) == 0:
            print('ESCAPED')
        """,
        notes="denied_syscall",
        about="ptrace",
    ),
    "hide the note of a refused tool in a folder of its name": Attack(
        code="""

        os.mkdir(os.environ['AGENTPOOL_REFUSED'])
        print(subprocess.run(['curl', '--version']).returncode)
        """,
        group="odd",
    ),
    "read another lease's workspace": Attack(
        code="""
        for path in (folder + '/leases/other/work/secret.txt', '/lease/../leases/other',
                     f'/proc/{pid}/root' + folder + '/leases/other/work/secret.txt'):
            tell(lambda: open(path).read())
        """
    ),
    "read the runtime's credential": Attack(
        code="""
        tell(lambda: open(folder + '/agent.json').read())
        tell(lambda: os.listdir(folder))
        """
    ),
    "read the runtime's environment": Attack(
        code="""
        for each in os.listdir('/proc'):
            if each.isdigit():
                try:
                    found = open(f'/proc/{each}/environ').read()
                except OSError:
                    continue
                if secret in found:
                    print('ESCAPED', each)
        """
    ),
    "write outside of the globs": Attack(
        code="""
        for path in ('/lease/work/src/a.py', '/lease/in/payload.json', '/usr/bin/new',
                     '/etc/passwd'):
            tell(lambda: open(path, 'a').write('x'))
        tell(lambda: os.rename('/lease/work/src', '/lease/work/other'))
        tell(lambda: os.unlink('/lease/work/src/a.py'))
        tell(lambda: os.symlink('/etc', '/lease/work/link'))
        open('/lease/work/tests/mine.py', 'w').write('x')
        if os.access('/lease/work/src', os.W_OK) or not os.access('/lease/work/tests', os.W_OK):
            print('ESCAPED: programs that ask are told otherwise')
        """,
        notes="denied_write",
        about="/usr/bin/new",
    ),
    "connect to a loopback port of the host": Attack(
        code="tell(lambda: socket.create_connection(('127.0.0.1', closed_port), 2).recv(9))"
    ),
    "connect out": Attack(
        code="tell(lambda: socket.create_connection(('203.0.113.7', 80), 2))",
        notes="denied_network",
        about="203.0.113.7 port 80",
    ),
    "resolve and reach a host that is not on the list": Attack(
        code="""
        tell(lambda: socket.getaddrinfo('example.org', 80))
        tell(lambda: urllib.request.urlopen('http://example.org/', timeout=5).read())
        del os.environ['NO_PROXY'], os.environ['no_proxy']
        tell(lambda: urllib.request.urlopen(f'http://127.0.0.1:{closed_port}/', timeout=5).read())
        """,
        notes="denied_network",
        about="example.org",
    ),
    "fork bomb": Attack(
        code="""
        children = 0
        for _ in range(400):
            try:
                if os.fork() == 0:
                    time.sleep(10); os._exit(0)
                children += 1
            except OSError:
                break
        if children > 60:
            print('ESCAPED', children)
        time.sleep(0.3); os._exit(0)
        """,
        notes="too_many_processes",
        pids=60,
        group="forks",
    ),
    "memory bomb": Attack(
        code="""
        held = []
        for _ in range(60):
            held.append(bytearray(os.urandom(1) * (16 * 2**20)))
            time.sleep(0.05)
        print('ESCAPED')
        """,
        notes="killed_for_memory",
        group="memory",
    ),
    "disk filler": Attack(
        code="""
        for number in range(300):
            with open(f'/lease/out/{number}', 'wb') as file:
                file.write(bytes(2**20))
            time.sleep(0.02)
        time.sleep(2)
        print('ESCAPED')
        """,
        notes="killed_for_disk",
        group="disk",
    ),
    "kill the runtime": Attack(
        code="""
        tell(lambda: os.kill(pid, 0))
        tell(lambda: os.kill(pid, 9))
        """,
        notes="denied_signal",
    ),
    "trace the runtime": Attack(
        code="""
        if libc.ptrace(16, pid, 0, 0) == 0 or libc.ptrace(16, os.getppid(), 0, 0) == 0:
            print('ESCAPED')
        """,
        notes="denied_syscall",
        about="ptrace",
    ),
    "mount": Attack(
        code="""
        if libc.mount(b'none', b'/lease/out', b'tmpfs', 0, None) == 0:
            print('ESCAPED mount')
        for flags in (0x10000000, 0x20000, 0x10020000):
            if libc.unshare(flags) == 0:
                print('ESCAPED unshare', flags)
        """,
        notes="denied_syscall",
        about="mount",
    ),
    "become root": Attack(
        code="""
        for way in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0)):
            try:
                way()
            except OSError:
                continue
            print('ESCAPED')
        status = dict(line.split(':', 1) for line in open('/proc/self/status'))
        rights = [int(status[name], 16) for name in ('CapEff', 'CapPrm', 'CapInh', 'CapAmb')]
        if status['NoNewPrivs'].strip() != '1' or any(rights):
            print('ESCAPED', status['NoNewPrivs'], rights)
        """,
        notes="denied_syscall",
        about="to root",
    ),
    "use a refused tool": Attack(
        code="""
        done = subprocess.run(['git', 'version'], capture_output=True, text=True)
        if done.returncode != 126:
            print('ESCAPED', done)
        """,
        notes="tool_refused",
        about="git",
    ),
    "outlive the lease": Attack(
        code="""
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.execvp('sh', ['sh', '-c', 'sleep 30; true', f'{secret}-daemon-{pid}'])
        time.sleep(0.3)
        """,
        group="odd",
    ),
    "change the kernel's settings": Attack(
        code="""
        for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname'):
            tell(lambda: open(path, 'w').write('1'))
        """
    ),
}
_HEAD = """
import ctypes, os, signal, socket, subprocess, sys, time, urllib.request
folder, secret = {folder!r}, {secret!r}
pid, closed_port, open_port = {pid}, {closed_port}, {open_port}
libc = ctypes.CDLL(None, use_errno=True)
def tell(attempt):
    try:
        print('ESCAPED', attempt())
    except (OSError, PermissionError) as error:
        print(type(error).__name__, error)
"""
# One after the other, each in a process of its own, whose output is told as JSON.
_EACH = """
import json, traceback
for name, body in bodies.items():
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(there, 1); os.dup2(there, 2); os.close(there)
        sys.stdout = sys.stderr = open(1, 'w', closefd=False)
        try:
            exec(body, dict(globals()))
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(0)
    os.close(there)
    os.waitpid(child, 0)
    os.set_blocking(here, False)  # what it left behind may hold the other end
    try:
        said = os.read(here, 65536).decode()
    except BlockingIOError:
        said = ''
    print(json.dumps([name, said]), flush=True)
"""


def run(level: str, attack: Attack, loot: Loot, number: int) -> dict[str, Any]:
    """Run one attack in a sandbox of its own; return what it printed and what was noted."""
    return _run(level, attack, _head(loot) + _body(attack), loot, number)


def run_together(
    level: str, attacks: Mapping[str, Attack], loot: Loot, number: int
) -> dict[str, dict[str, Any]]:
    """Run attacks one after the other in the same sandbox; each gets the notes of all."""
    if len(attacks) == 1:
        return {name: run(level, each, loot, number) for name, each in attacks.items()}
    env = {k: v for each in attacks.values() for k, v in each.env.items()}
    bodies = {name: _body(each) for name, each in attacks.items()}
    code = _head(loot) + f"bodies = {bodies!r}\n" + _EACH
    found = _run(
        level,
        Attack(code="", env=env, pids=min(each.pids for each in attacks.values())),
        code,
        loot,
        number,
    )
    lines = found["printed"].splitlines()  # among them, perhaps, the loader's
    said = [json.loads(line) for line in lines if line.startswith('["')]
    told = {name: {**found, "printed": printed} for name, printed in said}
    return {
        name: told.get(name, {**found, "complained": f"Traceback: {found}"}) for name in attacks
    }


def _head(loot: Loot) -> str:
    return _HEAD.format(
        folder=str(loot.folder),
        pid=loot.pid,
        closed_port=loot.closed_port,
        open_port=loot.open_port,
        secret=SECRET,
    )


def _body(attack: Attack) -> str:
    return "\n".join(line.removeprefix(" " * 8) for line in attack.code.strip("\n").split("\n"))


def _run(level: str, attack: Attack, code: str, loot: Loot, number: int) -> dict[str, Any]:
    environment, folder, place = _sandbox(level, attack, loot, number)
    seen = contract.Folder(root=environment.inside(folder.root))
    env = {"HOME": str(seen.home), "LANG": "C.UTF-8", "AGENTPOOL_REFUSED": str(seen.refused)}
    env |= {name: value.format(folder=loot.folder) for name, value in attack.env.items()}
    out, err = environment.run(command=["python3", "-c", code], env=env, cwd=place)
    notes: list[Incident] = []
    try:
        ended = _watch(environment, notes, LONGEST_S[level])
        printed, complained = os.read(out, 65536).decode(), os.read(err, 65536).decode()
    finally:
        environment.destroy()
    if list(loot.folder.glob("loader*")):
        printed += "ESCAPED: a file outside"
    return {
        "code": ended,
        "printed": printed,
        "complained": complained,
        "notes": [f"{each.kind} {each.detail}" for each in notes],
        "left": [p.pid for p in psutil.process_iter(["cmdline"]) if _is_daemon(p)],
    }


def machine(folder: Path) -> Loot:
    """Make what there is to steal, below a folder and on this process."""
    other = folder / "leases" / "other" / "work"
    other.mkdir(parents=True)
    (other / "secret.txt").write_text(SECRET)
    (folder / "agent.json").write_text(SECRET)
    return Loot(
        folder=folder,
        pid=os.getpid(),
        closed_port=_serve("closed"),
        open_port=_serve("REACHED"),
    )


def main(level: str, *groups: str) -> int:
    """Run the attacks of some groups, or all, and print what happened."""
    os.environ["BAIT"] = SECRET
    with tempfile.TemporaryDirectory() as folder:
        # Open to everybody: what holds must be the sandbox, not the mode of this folder.
        Path(folder).chmod(0o755)
        loot = machine(Path(folder))
        found = _all(level, of_groups(groups), loot)
    tier(level).remove_left(_runtime())
    json.dump({"level": level, "uid": os.geteuid(), "attacks": found}, sys.stdout)
    return 0


def of_groups(groups: Sequence[str]) -> dict[str, Attack]:
    """Return the attacks of some groups, of all when none is named."""
    return {name: each for name, each in ATTACKS.items() if not groups or each.group in groups}


def _all(level: str, chosen: Mapping[str, Attack], loot: Loot) -> dict[str, dict[str, Any]]:
    if level != "virtual_machine":
        return {
            name: run(level, attack, loot, number)
            for number, (name, attack) in enumerate(chosen.items())
        }
    groups: dict[str, dict[str, Attack]] = {}
    for name, attack in chosen.items():
        groups.setdefault(attack.group, {})[name] = attack
    with concurrent.futures.ThreadPoolExecutor(2) as beside:
        made = [
            beside.submit(run_together, level, each, loot, number)
            for number, each in enumerate(groups.values())
        ]
        return {name: told for each in made for name, told in each.result().items()}


def _sandbox(
    level: str, attack: Attack, loot: Loot, number: int
) -> tuple[Environment, contract.Folder, Path]:
    folder = contract.Folder(root=loot.folder / "leases" / f"lease-{number}")
    folder.make()
    place = folder.root / "work"
    for part in ("src", "tests"):
        (place / part).mkdir(parents=True)
    (place / "src" / "a.py").write_text("x = 1\n")
    folder.payload.write_text("{}")
    policy = policy_of(
        profile={**PROFILE, "allowed_hosts": [f"127.0.0.1:{loot.open_port}"]}, grant=GRANT
    )
    spec = Spec(
        lease_id=f"lease-{number}-{os.getpid()}",
        runtime=_runtime(),
        folder=folder.root,
        place=place,
        policy=replace(policy, pids=attack.pids),
        means=Means(cache=loot.folder / "cache"),
    )
    return tier(level).create(spec), folder, place


def _runtime() -> str:
    return f"attacked-{os.getpid()}"


def _watch(environment: Environment, notes: list[Incident], longest_s: float) -> int:
    """Hold the work to its limits as the runtime does; return how it ended."""
    until = time.monotonic() + longest_s
    while (ended := environment.poll()) is None:
        if (broken := environment.breach()) is not None or time.monotonic() > until:
            notes += [broken] if broken else []
            environment.kill()
        notes += environment.incidents()
        time.sleep(0.02)
    if (broken := environment.breach()) is not None:
        notes.append(broken)
    notes += environment.incidents()
    return ended.code


def _serve(text: str) -> int:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.socket.listen(socket.SOMAXCONN)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def _is_daemon(candidate: psutil.Process) -> bool:
    return f"{SECRET}-daemon-{os.getpid()}" in (candidate.info["cmdline"] or [])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
