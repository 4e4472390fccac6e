"""
The system calls that work may not make, as a BPF program for the kernel.

Denied calls are not just refused: the kernel asks the runtime's observer (`observer.py`), which
refuses and notes them. Where there is nobody to ask, the same list is refused outright.
"""

import errno
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass

# From the kernel's headers; a machine that is not here gets no filter, and says so.
_X86_64 = {
    "open": 2, "connect": 42, "kill": 62, "ptrace": 101, "setuid": 105, "setgid": 106,
    "setreuid": 113, "setresuid": 117, "personality": 135, "pivot_root": 155, "chroot": 161,
    "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168,
    "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "creat": 85, "clock_settime": 227,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "openat": 257,
    "unshare": 272, "perf_event_open": 298, "open_by_handle_at": 304, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "finit_module": 313, "kexec_file_load": 320,
    "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434,
    "clone3": 435, "clone": 56, "socket": 41, "pidfd_getfd": 438, "mount_setattr": 442,
}  # fmt: skip
_AARCH64 = {
    "connect": 203, "kill": 129, "ptrace": 117, "setuid": 146, "setgid": 144, "setreuid": 145,
    "setresuid": 147, "personality": 92, "pivot_root": 41, "chroot": 51, "acct": 89,
    "settimeofday": 170, "mount": 40, "umount2": 39, "swapon": 224, "swapoff": 225, "reboot": 142,
    "sethostname": 161, "setdomainname": 162, "init_module": 105, "delete_module": 106,
    "quotactl": 60, "clock_settime": 112, "kexec_load": 104, "add_key": 217, "request_key": 218,
    "keyctl": 219, "openat": 56, "unshare": 97, "perf_event_open": 241, "open_by_handle_at": 265,
    "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "finit_module": 273,
    "kexec_file_load": 294, "bpf": 280, "userfaultfd": 282, "io_uring_setup": 425,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "pidfd_open": 434, "clone3": 435, "clone": 220, "socket": 198,
    "pidfd_getfd": 438, "mount_setattr": 442,
}  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}

_OCI_NAMES = {0xC000003E: "SCMP_ARCH_X86_64", 0xC00000B7: "SCMP_ARCH_AARCH64"}

# Ways out of a sandbox, or into other processes: refused.
DENIED = [
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "setns",
    "unshare",
    "open_by_handle_at",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
    "swapon",
    "swapoff",
    "acct",
    "quotactl",
    "iopl",
    "ioperm",
    "settimeofday",
    "clock_settime",
    "sethostname",
    "setdomainname",
]
# Not there, as on an older kernel: programs know a way without.
_ABSENT = ("io_uring_setup", "clone3")
# Looked at by the observer, which lets them go on: whether they may is decided by the mounts and
# namespaces; this is how the attempt is known.
LOOKED_AT = ("connect", "kill", "setuid", "setreuid", "setresuid")
# These only if they would write: O_WRONLY, O_RDWR, O_CREAT or O_TRUNC among the flags.
OPENS = {"open": 1, "openat": 2}
_WRITES = 0o1 | 0o2 | 0o100 | 0o1000
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET
# Sockets that are no way to talk to anybody but the kernel's own innards.
_FAMILIES_DENIED = (15, 17, 38, 40)  # PF_KEY, PF_PACKET, AF_ALG, AF_VSOCK

_LD, _JEQ, _JSET, _RET = 0x20, 0x15, 0x45, 0x06
_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_ERRNO, _NOTIFY = 0x00050000, 0x7FC00000
_X32 = 0x40000000
_made: dict[tuple[int, bool], bytes] = {}


@dataclass(frozen=True, slots=True)
class Machine:
    """The numbers of this processor's system calls."""

    audit: int
    numbers: dict[str, int]

    def name(self, number: int) -> str:
        """Return what a system call is called here."""
        return next((n for n, k in self.numbers.items() if k == number), str(number))


def machine() -> Machine | None:
    """Return the machine's numbers, None: this processor is not known here."""
    found = _MACHINES.get(platform.machine())
    return Machine(*found) if found else None


def program(on: Machine, *, asks: bool) -> bytes:
    """
    Return the filter, as the kernel's `struct sock_filter`s.

    asks: denied and noteworthy calls go to the observer; else the denied ones are refused.
    """
    wanted = on.audit, asks
    if wanted not in _made:
        _made[wanted] = _program(on, asks=asks)
    return _made[wanted]


def _program(on: Machine, *, asks: bool) -> bytes:
    refuse = _NOTIFY if asks else _ERRNO | errno.EPERM
    code = [
        _load(4),
        _jump(_JEQ, on.audit, 1, 0),
        _answer(_KILL),
        _load(0),
    ]
    if on.audit == 0xC000003E:  # the second ABI of this processor, with numbers of its own
        code += [_jump(_JSET, _X32, 0, 1), _answer(_ERRNO | errno.ENOSYS)]
    code += _for_calls(on, DENIED, refuse)
    code += _for_calls(on, _ABSENT, _ERRNO | errno.ENOSYS)
    if asks:
        code += _for_calls(on, LOOKED_AT, _NOTIFY)
        for name, place in OPENS.items():
            code += _if_argument(on, name, place, _JSET, _WRITES, _NOTIFY)
    code += _if_argument(on, "clone", 0, _JSET, _NEW_NAMESPACES, refuse)
    for family in _FAMILIES_DENIED:
        code += _if_argument(on, "socket", 0, _JEQ, family, _ERRNO | errno.EAFNOSUPPORT)
    return b"".join([*code, _answer(_ALLOW)])


def profile(on: Machine) -> dict[str, object]:
    """Return the same filter as container engines take it (OCI), with everything asked for."""
    notify, absent = "SCMP_ACT_NOTIFY", "SCMP_ACT_ERRNO"
    rules: list[dict[str, object]] = [
        {"names": [*_known(on, DENIED), *_known(on, LOOKED_AT)], "action": notify},
        {"names": _known(on, _ABSENT), "action": absent, "errnoRet": errno.ENOSYS},
    ]
    for name, place in OPENS.items():
        # One rule a bit: the engine's comparison is for equality under a mask.
        for bit in (0o1, 0o2, 0o100, 0o1000):
            rules += _masked(on, name, place, bit, bit, notify)
    for bit in (1 << n for n in range(32)):
        if bit & _NEW_NAMESPACES:
            rules += _masked(on, "clone", 0, bit, bit, notify)
    for family in _FAMILIES_DENIED:
        found = _masked(on, "socket", 0, 0xFFFFFFFF, family, absent)
        rules += [{**each, "errnoRet": errno.EAFNOSUPPORT} for each in found]
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [_OCI_NAMES[on.audit]],
        "syscalls": rules,
    }


def _known(on: Machine, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in on.numbers]


def _masked(
    on: Machine, name: str, place: int, mask: int, value: int, action: str
) -> list[dict[str, object]]:
    if name not in on.numbers:
        return []
    test = {"index": place, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
    return [{"names": [name], "action": action, "args": [test]}]


def _for_calls(on: Machine, names: Sequence[str], answer: int) -> list[bytes]:
    found = [on.numbers[name] for name in names if name in on.numbers]
    return [part for number in found for part in (_jump(_JEQ, number, 0, 1), _answer(answer))]


def _if_argument(
    on: Machine, name: str, place: int, test: int, value: int, answer: int
) -> list[bytes]:
    """If the call is this one and the lower half of its argument passes the test."""
    if name not in on.numbers:
        return []
    return [
        _jump(_JEQ, on.numbers[name], 0, 4),
        _load(16 + 8 * place),
        _jump(test, value, 0, 1),
        _answer(answer),
        _load(0),
    ]


def _load(offset: int) -> bytes:
    return struct.pack("<HBBI", _LD, 0, 0, offset)


def _jump(test: int, value: int, yes: int, no: int) -> bytes:
    return struct.pack("<HBBI", test, yes, no, value)


def _answer(value: int) -> bytes:
    return struct.pack("<HBBI", _RET, 0, 0, value)
