"""
qemu on this machine: whether it is there, what it can use, and the words that start a guest.

The hardware's own virtualisation (KVM) is used where a guest really runs by it, which is tried:
there are machines where the device can be opened and no guest gets anywhere. Else the guest's
processor is emulated (TCG), several times slower.
"""

import fcntl
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from agentpool.agent.isolation.policy import Policy

KVM = Path("/dev/kvm")
# What a machine mounts, and how long it may keep what it has read of it.
SHARES = {"system": "always", "lease": "auto"}
INSTALL = "apt-get install qemu-system-x86"
# The guest sees the address of the user's network that qemu makes for `full`, and its resolver.
ADDRESS = ("10.0.2.15", "255.255.255.0", "10.0.2.2")
RESOLVER = "10.0.2.3"
# Memory of the guest beyond what its work may use: the kernel, what is shared, our own programs.
RESERVE_MB = 176
# Of qemu itself outside of the guest's memory, and of the code that it has translated.
_QEMU_MB, _TRANSLATED_MB = 160, 128
_DATA = Path("/usr/share/qemu")
_FLASH = _DATA / "qboot.rom"
_DAEMONS = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
# What the daemon would keep for itself when started by root.
_RIGHTS = (*("chown", "dac_override", "fowner", "fsetid", "setgid", "setuid", "mknod", "setfcap"),)
_API_VERSION, _GET_API_VERSION = 12, 0xAE00
_TRY_S = 5.0
_SAID, _EXIT_PORT = 0x21, 0xF4


def program() -> str:
    """Return where qemu for this machine's processor is, empty: it is not here."""
    return shutil.which(f"qemu-system-{platform.machine()}") or ""


def daemon() -> str:
    """Return where the program is that shares a folder with a guest, empty: it is not here."""
    return next((each for each in _DAEMONS if os.access(each, os.X_OK)), "")


def fails() -> str:
    """Return why machines can't be made here, and what mends it; empty: they can."""
    if platform.machine() != "x86_64":
        return f"virtual machines are known on x86_64 only, this is {platform.machine()}"
    if not program():
        return f"qemu is not installed: {INSTALL}"
    if not daemon():
        return f"qemu's virtiofsd is not here: {INSTALL} virtiofsd"
    if not _is_of_qemu(daemon()):
        return f"{daemon()} is of another kind than that of qemu up to 7.2, which agentpool knows"
    if os.geteuid() != 0 and os.getgroups() not in ([], [os.getegid()]):
        return "virtiofsd can't start as a user of many groups: start by setpriv --clear-groups"
    return ""


def memory_mb(policy: Policy) -> int:
    """Return what a whole machine may take of this one, for work that may use `memory_mb`."""
    translated = 0 if kvm_fails() == "" else _TRANSLATED_MB
    return policy.memory_mb + RESERVE_MB + _QEMU_MB + translated


@cache
def kvm_fails() -> str:
    """Return why guests don't run by KVM here; empty: they do. Looks once, by running one."""
    try:
        number = os.open(KVM, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{KVM}: {error.strerror}"
    try:
        if fcntl.ioctl(number, _GET_API_VERSION) != _API_VERSION:
            return f"{KVM} speaks another version"
    except OSError as error:
        return f"{KVM}: {error.strerror}"
    finally:
        os.close(number)
    return "" if runs("kvm") else f"{KVM} can be opened, but no guest runs by it"


def runs(accelerator: str) -> bool:
    """Return whether a guest of three instructions, its whole firmware, gets to its end."""
    start = bytes([0xB0, _SAID >> 1, 0xE6, _EXIT_PORT, 0xF4])  # mov al, …; out …, al; hlt
    with tempfile.NamedTemporaryFile() as firmware:
        firmware.write(bytes(65536 - 16) + start.ljust(16, b"\xf4"))
        firmware.flush()
        words = [program(), *_plain(accelerator), "-m", "16", "-bios", firmware.name]
        words += ["-device", f"isa-debug-exit,iobase={_EXIT_PORT},iosize=1"]
        try:
            done = subprocess.run(words, capture_output=True, timeout=_TRY_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == _SAID


def cores(policy: Policy) -> int:
    """Return how many processors a guest gets."""
    return max(1, min(os.cpu_count() or 1, -int(-policy.cpu_cores // 1)))


def words(
    *, policy: Policy, channel: int, python: str, files: Path, disk: Path | None
) -> list[str]:
    """
    Return the words that start a guest.

    channel: the descriptor of the runtime's channel. python: of the guest. files: the folder with
    qemu, kernel, archive and disk, as qemu sees it. disk: what that is out here.
    """
    accelerator = "tcg" if kvm_fails() else "kvm"
    size = policy.memory_mb + RESERVE_MB
    found = [f"{files}/qemu", *_plain(accelerator), "-smp", str(cores(policy)), "-m", str(size)]
    found += ["-object", f"memory-backend-memfd,id=ram,size={size}M,share=on"]
    found += ["-machine", "memory-backend=ram", "-serial", "stdio"]
    for name in SHARES:
        found += ["-chardev", f"socket,id={name},path={_socket(name)}"]
        found += ["-device", f"vhost-user-fs-pci,chardev={name},tag={name}"]
    found += ["-chardev", f"socket,id=channel,fd={channel}", "-device", "virtio-serial-pci"]
    found += ["-device", "virtserialport,chardev=channel,nr=1"]
    if policy.network == "full":
        found += [
            "-netdev",
            "user,id=net,ipv6=off",
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
        ]
    if disk is not None:
        kind = "qcow2" if _is_qcow(disk) else "raw"
        found += ["-drive", f"file={files}/disk,if=none,id=disk,readonly=on,format={kind}"]
        found += ["-device", "virtio-blk-pci,drive=disk"]
    if _FLASH.exists():
        found += ["-bios", str(_FLASH)]
    found += ["-kernel", f"{files}/kernel", "-initrd", f"{files}/archive"]
    needs = ["disk"] if disk else []
    needs += ["net"] if policy.network == "full" else []
    found += ["-append", " ".join([_told_kernel(accelerator, python), *needs])]
    denied = "obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    return [*found, "-sandbox", f"on,{denied}"]


def shares(folder: Path) -> list[str]:
    """
    Return the words of what shares the folders below one, each with no right over what is in it.

    Before each stands its socket, after each what `hull.py` takes for the end.
    """
    lacks = ":".join(f"-{each}" for each in _RIGHTS)
    found: list[str] = []
    for name, keeps in SHARES.items():
        found += [_socket(name), daemon(), "-f", "-o", f"source={folder}/{name},cache={keeps}"]
        found += ["-o", f"sandbox=chroot,announce_submounts,modcaps={lacks},log_level=err"]
        found += ["--rlimit-nofile=0", "--"]
    return found


def _socket(name: str) -> str:
    return f"/run/{name}.sock"


def _is_qcow(disk: Path) -> bool:
    with disk.open("rb") as file:
        return file.read(4) == b"QFI\xfb"


def _plain(accelerator: str) -> list[str]:
    kind = ["-accel", "kvm", "-cpu", "host"]
    if accelerator == "tcg":
        kind = ["-accel", f"tcg,tb-size={_TRANSLATED_MB}", "-cpu", "max"]
    bare = ("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none")
    # By itself it would look beside its own program, which stands elsewhere in the sandbox.
    bare = (*bare, *(("-L", str(_DATA)) if _DATA.is_dir() else ()))
    return ["-machine", "pc,usb=off,vmport=off", *kind, *bare]


def _told_kernel(accelerator: str, python: str) -> str:
    told = "console=ttyS0 quiet loglevel=1 panic=-1 random.trust_cpu=on cryptomgr.notests audit=0"
    if accelerator == "tcg":
        # Of an emulated processor there is nothing to calibrate and nothing that speculates.
        told += " lpj=4000000 tsc=unstable no_timer_check mitigations=off"
    return f"{told} rdinit={python} -- -E -s -S -B /machine/guest.pyc"


@cache
def _is_of_qemu(path: str) -> bool:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return "FUSE library" in said.stdout or "using FUSE" in said.stdout
