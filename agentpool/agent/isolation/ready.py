"""
Makes a guest ready: loads its kernel's modules, mounts what it consists of, brings up its network.

Part of the guest's first program (`guest.py`); it imports next to nothing.
"""

import fcntl
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

    from inside import Libc  # type: ignore[import-not-found]

# Python itself may stand anywhere else.
ROOT, GROUPS, CODE = "/machine/root", "/machine/groups", "/machine/code"
_MODULES, _DISK, _OVER = "/machine/modules", "/machine/disk", "/machine/over"
_DISK_KINDS = ("ext4", "erofs", "squashfs")
READY_S = 20.0
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_MOVE = 1, 2, 4, 4096, 8192
_MS_REMOUNT = 32
_CLONE_NEWNS = 0x20000
_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
_AF_INET = (2).to_bytes(2, sys.byteorder)
_SET_FLAGS, _SET_ADDRESS, _SET_MASK, _ADD_ROUTE = 0x8914, 0x8916, 0x891C, 0x890B
_UP, _RUNNING, _GATEWAY = 1, 0x40, 2
# Name, major and minor of the devices that the work has.
_DEVICES = (
    *(("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)),
    ("tty", 5, 0),
)
_LINKS = (
    *(("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1")),
    *(("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx")),
)


def mount_all(libc: "Libc", *, needs: "list[str]") -> None:
    """
    Load what the archive has of the kernel, and mount what the machine consists of.

    needs: `disk`, its root is on one and not in what the runtime shares; `net`, it has a network.
    """
    number = _FINIT_MODULE[os.uname().machine]
    for part in ("", *needs):
        folder = f"{_MODULES}{part}"
        for name in sorted(os.listdir(folder)):
            file = os.open(f"{folder}/{name}", os.O_RDONLY)
            libc.syscall(number, file, b"", 0)
            os.close(file)
    _mount(libc, "proc", "/proc", "proc")
    _mount(libc, "dev", "/dev", "devtmpfs")
    _mount(libc, "groups", GROUPS, "cgroup2")
    if "disk" in needs:
        _mount_disk(libc)
    else:
        _mount_shared(libc, "system", ROOT, _MS_RDONLY)
    _mount_shared(libc, "lease", f"{ROOT}/lease", _MS_NOSUID | _MS_NODEV)
    _mount_tmp(libc, shown=[] if "disk" in needs else os.listdir(f"{ROOT}/tmp"))  # noqa: S108
    quiet = _MS_NOSUID | _MS_NODEV
    # Of other users' processes the work sees nothing: that is, of ours.
    _mount(libc, "proc", f"{ROOT}/proc", "proc", quiet, "hidepid=2")
    _mount(libc, "run", f"{ROOT}/run", "tmpfs", quiet, "mode=755")
    _make_devices(libc, f"{ROOT}/dev")


def _mount_tmp(libc: "Libc", *, shown: "list[str]") -> None:
    """Mount the lease's own /tmp, with what of the machine's is shown in it, a toolchain say."""
    place = f"{ROOT}/tmp"  # noqa: S108
    held = {name: os.open(f"{place}/{name}", os.O_PATH) for name in shown}
    _mount(libc, f"{ROOT}/lease/tmp", place, "", _MS_BIND)
    for name, number in held.items():
        _mount(libc, f"/proc/self/fd/{number}", f"{place}/{name}", "", _MS_BIND)
        os.close(number)


def channel() -> int:
    """Return the channel to the runtime, once the kernel has it. Raises: OSError."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        for name in os.listdir("/dev"):
            if name.startswith("vport"):
                return os.open(f"/dev/{name}", os.O_RDWR | os.O_NONBLOCK)
        time.sleep(0.005)
    raise OSError("there is no channel")


def tell_resolver(address: str) -> None:
    """Have a root of its own ask this resolver, or none, whatever its image says."""
    if os.path.isdir(f"{ROOT}/etc"):
        place = f"{ROOT}/etc/resolv.conf"
        if os.path.lexists(place):
            os.unlink(place)
        with open(place, "w", encoding="ascii") as file:
            file.write(f"nameserver {address}\n" if address else "")


def make_group(told: "dict[str, Any]") -> None:
    """Make the control group of the work, with its limits."""
    write(f"{GROUPS}/cgroup.subtree_control", "+memory +pids +cpu")
    os.mkdir(f"{GROUPS}/work")
    write(f"{GROUPS}/work/memory.oom.group", "1")
    for name, key in (("memory.max", "memory"), ("pids.max", "pids"), ("cpu.max", "cpu")):
        write(f"{GROUPS}/work/{name}", str(told[key]))


def show_lease(libc: "Libc", told: "dict[str, Any]") -> None:
    """
    Have the guest know what it may not write, too: it would say so only when it is tried.

    What holds is decided outside; programs ask first whether they may.
    """
    for path in told["read_only"]:
        _remount(libc, f"{ROOT}{path}", _MS_RDONLY)
    for path in told["writable"]:
        _remount(libc, f"{ROOT}{path}", 0)


def open_network(told: "dict[str, Any]") -> "list[tuple[_socket.socket, int]]":
    """Bring up the loopback, and the way out where one is; return the doors with their ports."""
    import _socket

    asking, found = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM), []
    _bring_up(asking, b"lo")
    for port in told["ports"]:
        door = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        door.bind(("127.0.0.1", port))
        door.listen(64)
        found.append((door, port))
    if told["address"]:
        _give_address(asking, b"eth0", *(_socket.inet_aton(each) for each in told["address"]))
    asking.close()
    return found


def enter_root(libc: "Libc") -> None:
    """Make the shared root the only one that this process and its children have."""
    if libc.unshare(_CLONE_NEWNS):
        raise libc.error("no mount namespace", "/")
    os.chdir(ROOT)
    _mount(libc, ".", "/", "", _MS_MOVE)
    os.chroot(".")


def field(name: str, key: bytes) -> int:
    """Return a figure of the work's group; 0, it has none such."""
    for line in read(f"{GROUPS}/work/{name}").splitlines():
        word, _, value = line.partition(b" ")
        if word == key:
            return int(value)
    return 0


def read(path: str) -> bytes:
    """Return what a small file says."""
    number = os.open(path, os.O_RDONLY)
    try:
        return os.read(number, 65536)
    finally:
        os.close(number)


def write(path: str, text: str) -> None:
    """Write to a file that is there."""
    number = os.open(path, os.O_WRONLY)
    try:
        os.write(number, text.encode())
    finally:
        os.close(number)


def _mount_disk(libc: "Libc") -> None:
    """Mount the disk, and over it memory for what has no place there; nothing is written to it."""
    until = time.monotonic() + READY_S
    while not any(
        _mounted(libc, "/dev/vda", _DISK, kind, _MS_RDONLY, until=until) for kind in _DISK_KINDS
    ):
        time.sleep(0.005)
    _mount(libc, "over", _OVER, "tmpfs", 0, "mode=755")
    for name in ("upper", "work"):
        os.mkdir(f"{_OVER}/{name}")
    told = f"lowerdir={_DISK},upperdir={_OVER}/upper,workdir={_OVER}/work"
    _mount(libc, "root", ROOT, "overlay", 0, told)
    for name in ("lease", "tmp", "proc", "dev", "run"):
        if not os.path.isdir(f"{ROOT}/{name}"):
            os.mkdir(f"{ROOT}/{name}")


def _mount_shared(libc: "Libc", name: str, place: str, flags: int) -> None:
    until = time.monotonic() + READY_S
    while not _mounted(libc, name, place, "virtiofs", flags, until=until):
        time.sleep(0.005)


def _make_devices(libc: "Libc", folder: str) -> None:
    _mount(libc, "dev", folder, "tmpfs", _MS_NOSUID, "mode=755")
    os.umask(0)
    for name, major, minor in _DEVICES:
        os.mknod(f"{folder}/{name}", 0o20666, os.makedev(major, minor))
    for name, target in _LINKS:
        os.symlink(target, f"{folder}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{folder}/{name}")
    _mount(libc, "pts", f"{folder}/pts", "devpts", _MS_NOSUID, "newinstance,ptmxmode=0666")
    _mount(libc, "shm", f"{folder}/shm", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777")
    os.umask(0o022)


def _bring_up(asking: "_socket.socket", name: bytes) -> None:
    flags = (_UP | _RUNNING).to_bytes(2, sys.byteorder)
    fcntl.ioctl(asking.fileno(), _SET_FLAGS, name.ljust(16, b"\0") + flags + bytes(14))


def _give_address(
    asking: "_socket.socket", name: bytes, address: bytes, mask: bytes, gateway: bytes
) -> None:
    """Give an interface its address, and lead everything else through the gateway."""

    def of(ip: bytes) -> bytes:
        return _AF_INET + bytes(2) + ip + bytes(8)

    number, called = asking.fileno(), name.ljust(16, b"\0")
    fcntl.ioctl(number, _SET_ADDRESS, called + of(address) + bytes(8))
    fcntl.ioctl(number, _SET_MASK, called + of(mask) + bytes(8))
    _bring_up(asking, name)
    # struct rtentry: padding, destination, gateway, mask, flags, and what is not needed.
    anywhere, flags = of(bytes(4)), (_UP | _GATEWAY).to_bytes(2, sys.byteorder)
    route = bytes(8) + anywhere + of(gateway) + anywhere + flags + bytes(62)
    fcntl.ioctl(number, _ADD_ROUTE, route)


def _mount(
    libc: "Libc", source: str, target: str, kind: str, flags: int = 0, data: str = ""
) -> None:
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()):
        raise libc.error(f"{kind} can't be mounted", target)


def _remount(libc: "Libc", place: str, flags: int) -> None:
    """Make what is at a place read only, or not; it becomes a mount of its own first."""
    if os.path.isdir(place):
        os.stat(f"{place}/.")  # only now the guest mounts what is a mount outside
    try:
        _mount(libc, "", place, "", _MS_REMOUNT | _MS_BIND | flags)
    except OSError:
        _mount(libc, place, place, "", _MS_BIND)
        _mount(libc, "", place, "", _MS_REMOUNT | _MS_BIND | flags)


def _mounted(
    libc: "Libc", source: str, target: str, kind: str, flags: int = 0, *, until: float
) -> bool:
    """Return whether it could be mounted; after `until` that is an error."""
    try:
        _mount(libc, source, target, kind, flags)
    except OSError:
        if time.monotonic() > until:
            raise
        return False
    return True
