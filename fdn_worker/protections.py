"""The protections of a task, and how each shows from inside: pure, on what `SCRIPT` said there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Bytes of memory that the task which looks round is given.
MEMORY = 64 * 1024**2
#: Says `NAME=VALUE` for what it finds. Builtins of a POSIX shell alone: an image may hold nothing else.
SCRIPT = r"""
first() { read -r line 2>/dev/null < "$1" && echo "$2=$line"; }
try() { (: > "$1") 2>/dev/null && echo "$2=written" || echo "$2=refused"; }
while read -r key value rest; do
    case $key in CapEff:|CapPrm:|CapBnd:|NoNewPrivs:|Seccomp:|Uid:|Gid:) echo "${key%:}=$value";; Groups:) echo "Groups=$value $rest";; esac
done < /proc/self/status
while read -r device place kind options rest; do
    case $place in
        /|/tmp|/proc/sys|/sys) echo "mount $place=$options";;
        "$DATA_PATH/nested"/*) echo "below=$place";;
        "$DATA_PATH/nested") echo nested=there;;
    esac
done < /proc/mounts
while read -r name rest; do case $name in *:*) echo "interface ${name%%:*}=up";; esac; done < /proc/net/dev
try /fdn-probe root; try "$DATA_PATH/probe/written" data; try "$SANDBOX_PATH/written" sandbox
for socket in /var/run/docker.sock /run/docker.sock /run/containerd/containerd.sock /run/podman/podman.sock; do
    [ -e "$socket" ] && echo "socket $socket=there"
done
for device in /dev/* /dev/*/*; do [ -b "$device" ] && echo "device $device=there"; done
for process in /proc/[0-9]*; do echo "process ${process##*/}=there"; done
for group in /sys/fs/cgroup /sys/fs/cgroup/pids /sys/fs/cgroup/memory; do
    first $group/pids.max pids; first $group/memory.max memory; first $group/memory.swap.max swap
    first $group/memory.limit_in_bytes memory; first $group/memory.memsw.limit_in_bytes both
done
while read -r file rest; do case $file in /*) echo "swapfile $file=on";; esac; done < /proc/swaps
first /proc/self/attr/current module; first /proc/self/uid_map ids; first /proc/1/comm init
echo "core=$(ulimit -c)"; echo "files=$(ulimit -n)"
echo looked=round
"""


class Facts(dict[str, str]):
    """Name -> value, as the script said them. What it did not say is not to be seen from inside."""

    def of(self, kind: str) -> str:
        """All of one kind, which stand as `KIND NAME`; "none" if there is none."""
        return ", ".join(sorted(name.partition(" ")[2] for name in self if name.startswith(f"{kind} "))) or "none"

    def options(self, place: str) -> set[str]:
        """Options of what is mounted there."""
        return set(self.get(f"mount {place}", "").split(","))

    def at_most(self, name: str, most: int) -> bool:
        """Whether there is a limit: a control group without one says `max`, or a number beyond any machine's."""
        return self.get(name, "").isdigit() and int(self[name]) <= most

    @property
    def host_users(self) -> bool:
        """Whether the container's users are those of the machine, its root the machine's root."""
        return self.get("ids", "0 0").split()[1:2] == ["0"]

    def say(self, *names: str) -> str:
        return ", ".join(f"{name} {self.get(name, 'is not to be seen')}" for name in names)


@dataclass(frozen=True)
class Protection:
    """What it is called, whether it is in force, what shows that, and what mends it where it is not."""

    what: str
    holds: Callable[[Facts], bool]
    shown: Callable[[Facts], str]
    remedy: str


def _nested(facts: Facts) -> str:
    return f"{facts.get('below', 'nothing')} came along" if "nested" in facts else "the engine starts no task with such data"


def _without_swap(facts: Facts) -> bool:
    return facts.get("swap") == "0" or facts.at_most("both", MEMORY) or facts.of("swapfile") == "none"


_GROUPS = "let the engine limit it: control groups of version 2, delegated by systemd to the user where the engine is rootless"
#: All that a hardened task has.
PROTECTIONS = (
    Protection(
        "no capabilities", lambda facts: all(set(facts.get(name, "x")) == {"0"} for name in ("CapEff", "CapPrm", "CapBnd")),
        lambda facts: facts.say("CapEff", "CapBnd"), "find out what gives them: the worker has all of them dropped",
    ),
    Protection(
        "no new privileges", lambda facts: facts.get("NoNewPrivs") == "1", lambda facts: facts.say("NoNewPrivs"),
        "use a runtime that knows it, such as runc",
    ),
    Protection(
        "system calls filtered", lambda facts: facts.get("Seccomp") == "2", lambda facts: facts.say("Seccomp"),
        "start dockerd without `seccomp-profile: unconfined`, on a kernel that filters system calls",
    ),
    Protection(
        "not this machine's root",
        lambda facts: not facts.host_users or (facts.get("Uid", "0") != "0" and "0" not in facts.get("Groups", "0").split()),
        lambda facts: facts.say("Uid", "Gid", "Groups"), "set user in the launcher's table",
    ),
    Protection(
        "image read-only", lambda facts: facts.get("root") == "refused" and "ro" in facts.options("/"),
        lambda facts: f"a write to / was {facts.get('root', 'not tried')}", "use a runtime that mounts the image read-only",
    ),
    Protection(
        "data read-only", lambda facts: facts.get("data") == "refused",
        lambda facts: f"a write to a dataset was {facts.get('data', 'not tried')}", "let no task start here: your data could be changed",
    ),
    Protection("what is mounted below data stays out", lambda facts: "below" not in facts, _nested, "use Docker 20.10 or later"),
    Protection(
        "a sandbox to write in", lambda facts: facts.get("sandbox") == "written",
        lambda facts: f"a write there was {facts.get('sandbox', 'not tried').replace('written', 'done')}",
        "set user in the launcher's table to the worker's own UID:GID; with a rootless Docker set rootless",
    ),
    Protection(
        "/tmp runs no programs", lambda facts: {"noexec", "nosuid", "nodev"} <= facts.options("/tmp"), lambda facts: facts.say("mount /tmp"),
        "use a runtime that heeds the options of a tmpfs",
    ),
    Protection(
        "kernel settings read-only", lambda facts: "ro" in facts.options("/proc/sys") & facts.options("/sys"),
        lambda facts: ", ".join(f"{place} {'read-only' if 'ro' in facts.options(place) else 'writable'}" for place in ("/proc/sys", "/sys")),
        "never run tasks privileged",
    ),
    Protection(
        "no network", lambda facts: facts.of("interface") in ("lo", "none"), lambda facts: f"interfaces: {facts.of('interface')}",
        "find out what adds one: the worker asks for none",
    ),
    Protection(
        "no engine's socket", lambda facts: facts.of("socket") == "none", lambda facts: f"sockets: {facts.of('socket')}",
        "never give it to tasks: whoever has it is root on this machine",
    ),
    Protection("no disks", lambda facts: facts.of("device") == "none", lambda facts: f"disks: {facts.of('device')}", "never run tasks privileged"),
    Protection(
        "its own processes alone", lambda facts: "1" in facts.of("process").split(", ") and facts.of("process").count(",") < 9,
        lambda facts: f"sees processes {facts.of('process')[:60]}", "never share the host's processes with tasks",
    ),
    Protection("processes limited", lambda facts: facts.at_most("pids", 2**20), lambda facts: facts.say("pids"), _GROUPS),
    Protection("memory limited", lambda facts: facts.at_most("memory", MEMORY), lambda facts: facts.say("memory"), _GROUPS),
    Protection(
        "no swap beyond that", _without_swap,
        lambda facts: "this machine has none" if facts.of("swapfile") == "none" else facts.say("swap" if "swap" in facts else "both"),
        "boot with swapaccount=1, or without swap",
    ),
    Protection("no core dumps", lambda facts: facts.get("core") == "0", lambda facts: facts.say("core"), "use a runtime that heeds ulimits"),
    Protection(
        "open files limited", lambda facts: facts.at_most("files", 2**20), lambda facts: facts.say("files"),
        "set open_files in the launcher's table",
    ),
)  # fmt: skip


def besides(facts: Facts) -> str:
    """What differs between sites, and is no fault."""
    module = facts.get("module", "").rstrip("\0")
    return ", ".join(
        (
            "no AppArmor or SELinux confines it" if module in ("", "unconfined") else f"confined by {module}",
            "its users are the machine's" if facts.host_users else "its users are not the machine's",
            f"its first process is {facts.get('init', 'not to be seen')}",
        )
    )
