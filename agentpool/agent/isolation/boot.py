"""
What a virtual machine boots: a kernel of this machine, and an archive in memory made for it.

The archive holds a few modules of the kernel, Python as this runtime has it, and the guest's first
program (`guest.py`) with what that imports: no image has to be fetched. It is made once for each
kernel, Python and version of the code, and kept beside the other things that outlive leases.
"""

import hashlib
import os
import re
import stat
import struct
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import agentpool
from agentpool.agent.isolation import IsolationUnavailable, Means, around
from agentpool.agent.isolation.given import compiled

# Where a kernel that was only unpacked may stand, before those that the machine itself boots.
PLACES = (Path("/usr/local/share/agentpool/machine/boot"), Path("/boot"))
INSTALL = (
    "apt-get download of a linux-image-…-cloud package, then dpkg --extract FILE"
    f" {PLACES[0].parent}; or name another kernel with --vm-kernel"
)
# By what a machine has beyond the least; an ext4 disk needs none that kernels don't have built in.
_MODULES = {
    "": ("virtio_pci", "virtio_console", "virtiofs"),
    "net": ("virtio_net",),
    "disk": ("virtio_blk", "overlay", "ext4", "erofs", "squashfs"),
}
_SIGNED = b"~Module signature appended~\n"
_HERE = Path(__file__).parent
# What stands at the top of the archive, as programs of their own.
_PROGRAMS = ("guest", "ready", "inside", "streams")
# What the helper in the guest imports of agentpool, by path below its package.
_PACKAGE = (
    *("__init__", "agent/__init__", "agent/isolation/__init__", "agent/isolation/observer"),
    *("agent/isolation/policy", "agent/isolation/seccomp"),
)
_IMPORTED = (
    *(
        "_ctypes",
        "ctypes",
        "os",
        "sys",
        "time",
        "marshal",
        "select",
        "fcntl",
        "_socket",
        "array",
        "errno",
    ),
    *("ipaddress", "socket", "struct", "threading", "pathlib", "importlib", "dataclasses"),
    *("typing", "fnmatch", "platform", "encodings.ascii", "encodings.latin_1", "encodings.idna"),
)
_FOLDERS = (
    *("dev", "proc", "machine/modules", "machine/modulesnet", "machine/modulesdisk"),
    *("machine/root", "machine/groups", "machine/disk", "machine/over"),
)
_LANDMARKS = ("os", "encodings/__init__", "encodings/aliases", "encodings/utf_8", "codecs", "io")
_making = threading.Lock()


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and the folder of its modules."""

    file: Path
    modules: Path


def kernel(means: Means) -> Kernel:
    """Return the kernel of guests. Raises: IsolationUnavailable, saying what is missing."""
    if means.kernel is not None:
        return _with_modules(means.kernel)
    found = [file for place in PLACES for file in _newest_first(place)]
    if not found:
        raise IsolationUnavailable(f"there is no kernel for the machines: {INSTALL}")
    return _with_modules(found[0])


def archive(kernel: Kernel, *, cache: Path) -> Path:
    """Return the archive that the guest starts from, made when there is none yet."""
    target = cache / "machine" / f"{_digest(kernel)}.cpio"
    with _making:
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_suffix(f".{os.getpid()}")
            draft.write_bytes(_packed(_content(kernel)))
            draft.rename(target)
    return target


def interpreter() -> str:
    """Return the path of the guest's Python, which is that of this machine's."""
    return str(around.python()[0])


def _newest_first(place: Path) -> list[Path]:
    found = [file for file in place.glob("vmlinuz-*") if os.access(file, os.R_OK)]
    return sorted(found, key=lambda file: [int(n) for n in re.findall(r"\d+", file.name)])[::-1]


def _with_modules(file: Path) -> Kernel:
    if not os.access(file, os.R_OK):
        raise IsolationUnavailable(f"the kernel {file} can't be read: {INSTALL}")
    version = file.name.partition("-")[2]
    modules = file.parent.parent / "lib" / "modules" / version
    if not version or not modules.is_dir():
        raise IsolationUnavailable(f"the modules of the kernel {file} are not in {modules}")
    return Kernel(file, modules)


@cache
def _digest(kernel: Kernel) -> str:
    told = [str(kernel.file), sys.version, interpreter()]
    for file in (kernel.file, Path(interpreter()), *_sources()):
        known = file.stat()
        told.append(f"{file} {known.st_mtime_ns} {known.st_size}")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:24]


def _sources() -> list[Path]:
    package = Path(agentpool.__file__).parent
    named = [package / f"{name}.py" for name in _PACKAGE]
    return [*(_HERE / f"{name}.py" for name in _PROGRAMS), Path(__file__), *named]


def _content(kernel: Kernel) -> Mapping[str, bytes]:
    """Return every file of the archive by its path."""
    found = {}
    always = _needed(kernel.modules, _MODULES[""])
    for part, names in _MODULES.items():
        more = [each for each in _needed(kernel.modules, names) if each not in always]
        for number, file in enumerate(more if part else always):
            found[f"machine/modules{part}/{number:02}-{file.stem}"] = _module(file)
    found |= {name.lstrip("/"): _loaded(data) for name, data in _python()}
    for name in _PROGRAMS:
        found[f"machine/{name}.pyc"] = compiled(_HERE / f"{name}.py")
    package = Path(agentpool.__file__).parent
    for name in _PACKAGE:
        found[f"machine/code/agentpool/{name}.pyc"] = compiled(package / f"{name}.py")
    return found


def _needed(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the modules in the order in which they are to be loaded; built-in ones need none."""
    there = {_plain(file): file for file in folder.rglob("*.ko*")}
    found: dict[str, Path] = {}

    def need(name: str) -> None:
        if name in found or name not in there:
            return
        said = re.search(rb"\0depends=([^\0]*)\0", _module(there[name]))
        for other in filter(None, said[1].decode().split(",") if said else []):
            need(other.replace("-", "_"))
        found[name] = there[name]

    for name in names:
        need(name)
    return list(found.values())


def _plain(file: Path) -> str:
    return file.name.partition(".ko")[0].replace("-", "_")


def _module(file: Path) -> bytes:
    """Return a module as the kernel takes it, without the signature, which takes long to verify."""
    data = file.read_bytes()
    if file.suffix == ".xz":
        import lzma

        data = lzma.decompress(data)
    elif file.suffix != ".ko":
        raise IsolationUnavailable(f"the kernel's modules are packed as {file.suffix}: {INSTALL}")
    if not data.endswith(_SIGNED):
        return data
    data = data.removesuffix(_SIGNED)
    # Before the mark: twelve bytes, the last four of which say how long the signature is.
    return data[: -12 - int.from_bytes(data[-4:], "big")]


def _python() -> Iterator[tuple[str, bytes]]:
    """Yield this machine's Python and all that it needs for what the guest imports."""
    program = Path(interpreter())
    libraries = {str(program)}
    tell = (
        "import sys\n"
        f"for each in {_IMPORTED!r}: __import__(each)\n"
        "for each in list(sys.modules.values()):\n"
        "    if file := getattr(each, '__file__', None): print(file)"
    )
    words = [str(program), "-I", "-S", "-c", tell]
    said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    standard = Path(sysconfig.get_path("stdlib"))
    sources = {Path(file) for file in said.splitlines()}
    for file in (*sources, *(standard / f"{name}.py" for name in _LANDMARKS)):
        if file.suffix == ".py":
            yield str(file.with_suffix(".pyc")), compiled(file)
        else:
            libraries.add(str(file))
    for name in _with_libraries(libraries):
        yield name, Path(name).read_bytes()


def _with_libraries(files: Iterable[str]) -> set[str]:
    """Return these programs and libraries with those that they are linked to."""
    found = set(files)
    said = subprocess.run(["ldd", *sorted(found)], capture_output=True, text=True, check=False)
    return found | set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", said.stdout, re.MULTILINE))


def _loaded(data: bytes) -> bytes:
    """Return a program without what the loader never looks at, such as notes for debuggers."""
    if data[:5] != b"\x7fELF\x02":
        return data
    (start,), (size, count) = (
        struct.unpack_from("<Q", data, 32),
        struct.unpack_from("<HH", data, 54),
    )
    end = start + size * count
    for number in range(count):
        head = struct.unpack_from("<IIQQQQ", data, start + number * size)
        end = max(end, head[2] + head[5])
    return data[:end]


def _packed(content: Mapping[str, bytes]) -> bytes:
    """Return the archive as the kernel unpacks it (cpio, "newc")."""
    folders = {str(parent) for name in content for parent in Path(name).parents} - {"."}
    packed = bytearray()
    for name in sorted({*folders, *_FOLDERS}):
        _entry(packed, name, stat.S_IFDIR | 0o755)
    _entry(packed, "dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    for name, data in content.items():
        _entry(packed, name, stat.S_IFREG | 0o755, data)
    _entry(packed, "TRAILER!!!", 0)
    return bytes(packed)


def _entry(
    packed: bytearray, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
) -> None:
    called = name.encode() + b"\0"
    numbers = (len(packed) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(called), 0)
    packed += b"070701" + b"".join(b"%08X" % number for number in numbers) + called
    packed += bytes(-len(packed) % 4)
    packed += data
    packed += bytes(-len(packed) % 4)
