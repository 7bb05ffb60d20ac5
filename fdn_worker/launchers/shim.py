"""The process launcher's server: a small program that forks a keeper for each task. Standard library alone, one thread.

It is run as a script, and reads requests from a socket, a JSON object a line:
{home, node, argv, environment, sandbox, limits: {name: value}, log_limit}. For each it forks a keeper, which

1. leads a session of its own, so that nothing sent to the worker's process group reaches it;
2. claims the attempt: creates HOME/claim, a JSON object a line, the first {pid, started, node} (`started` in ticks
   since boot, since a pid may be used again), or answers that it is claimed already;
3. forks and executes the command in a process group of its own, and answers: {"started": true}, {"claimed": true},
   or {"error": text, "system": whether the fault is ours};
4. copies the task's output to HOME/log up to a cap, and counts what it drops;
5. at the end of the command kills what that left running, and adds the second line to HOME/claim in one write: {code,
   began, finished, cpu_seconds, peak_memory, dropped}.

The server ends with its socket. Keepers do not: a worker that was killed finds claim, log and exit of its tasks.
"""

# ruff: noqa: PTH108, PTH208
# A fork costs by what its process has imported: pathlib alone is a tenth of it.

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CHUNK = 65536
#: Seconds for output that comes after all of the task was killed: only who escaped can still hold the pipe.
_DRAIN = 1.0
#: Signals that Python, or whoever started the worker, may have set to be ignored.
_RESET = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
#: What exec fails with when the machine, not the command, is at fault.
_OURS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class Process(NamedTuple):
    """A line of /proc; `started` is in ticks since boot, and tells a pid's second use from its first."""

    pid: int
    parent: int
    session: int
    started: int


def process(pid: int) -> Process | None:
    """The process, or None."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            text = os.read(file, _CHUNK).decode(errors="replace")
        finally:
            os.close(file)
    except OSError:
        return None
    # The name in parentheses may hold anything, so fields are counted after its end: 3 state, 4 parent, 6 session, 22 start.
    fields = text.rpartition(")")[2].split()
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]))


def processes() -> Iterator[Process]:
    """All there are."""
    for entry in os.listdir("/proc"):
        found = process(int(entry)) if entry.isdigit() else None
        if found:
            yield found


def send(pid: int, number: signal.Signals) -> None:
    """Signal the process, if it is there and ours."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def serve(channel: socket.socket) -> None:
    """Take requests until the worker is gone."""
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    channel.set_inheritable(False)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with channel, channel.makefile("rb") as requests:
        for line in requests:
            try:
                pid = os.fork()
            except OSError as error:
                _answer(channel, {"error": f"cannot fork: {error.strerror}", "system": True})
                continue
            if pid == 0:
                try:
                    _keep(json.loads(line), channel, prctl)
                finally:
                    os._exit(1)


def _keep(request: dict[str, Any], channel: socket.socket, prctl: Any) -> NoReturn:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Orphans of the task become the keeper's children, so that none is left behind.
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    path = f"{request['home']}/claim"
    try:
        claim = _claim(path, request["node"])
    except FileExistsError:
        _answer(channel, {"claimed": True})
        os._exit(0)
    except OSError as error:
        _answer(channel, {"error": f"{path}: {error.strerror}", "system": True})
        os._exit(1)
    try:
        output, output_end = os.pipe()
        trouble, trouble_end = os.pipe()
        began = time.time()
        child = os.fork()
    except OSError as error:
        os.unlink(path)
        _answer(channel, {"error": f"cannot start: {error.strerror}", "system": True})
        os._exit(1)
    if child == 0:
        _execute(request, output_end, trouble_end, prctl)
    os.close(output_end)
    os.close(trouble_end)
    # Closed by a successful exec.
    failed = os.read(trouble, _CHUNK)
    if failed:
        os.waitpid(child, 0)
        os.unlink(path)
        _answer(channel, json.loads(failed))
        os._exit(1)
    _answer(channel, {"started": True})
    # Not `close`, which leaves it open for the reader around it: the worker should hear when the server dies.
    os.close(channel.detach())
    code, dropped = _tend(child, output, _Log(f"{request['home']}/log", request["log_limit"]))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "code": code, "began": began, "finished": time.time(), "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_memory": used.ru_maxrss * 1024, "dropped": dropped,
    }  # fmt: skip
    os.write(claim, json.dumps(result).encode() + b"\n")
    os._exit(0)


def _claim(path: str, node: str) -> int:
    """Take the attempt; the claim's file, to add to. FileExistsError when it is taken. A claim is never seen half written."""
    own = process(os.getpid())
    assert own is not None
    draft = f"{path}.{own.pid}"
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        os.write(file, json.dumps({"pid": own.pid, "started": own.started, "node": node}).encode() + b"\n")
        os.link(draft, path)
    finally:
        os.unlink(draft)
    return file


def _answer(channel: socket.socket, answer: dict[str, Any]) -> None:
    try:
        channel.sendall(json.dumps(answer).encode() + b"\n")
    except OSError:
        # The worker is gone; its successor finds the claim.
        return


def _execute(request: dict[str, Any], output: int, trouble: int, prctl: Any) -> NoReturn:
    """Become the command, or say why not."""
    try:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.setpgid(0, 0)
        for resettable in _RESET:
            signal.signal(resettable, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.umask(0o022)
        for name, value in request["limits"].items():
            kind = getattr(resource, name)
            most = resource.getrlimit(kind)[1]
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(kind, (value, value))
        os.chdir(request["sandbox"])
    except (OSError, ValueError) as error:
        _give_up(trouble, f"cannot prepare the task: {error}", True)
    try:
        os.execvpe(request["argv"][0], request["argv"], request["environment"])
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else 0
        _give_up(trouble, (isinstance(error, OSError) and error.strerror) or str(error), number in _OURS)


def _give_up(trouble: int, text: str, system: bool) -> NoReturn:
    os.write(trouble, json.dumps({"error": text, "system": system}).encode())
    os._exit(127)


class _Log:
    """The task's log file, made at its first output; takes so many bytes, and counts the rest."""

    def __init__(self, path: str, limit: int) -> None:
        self._path, self._room = path, limit
        self._file: int | None = None
        self.dropped = 0

    def write(self, data: bytes) -> None:
        written = self._append(data[: self._room])
        # Once something is missing, nothing comes after it.
        self._room = self._room - written if written == len(data) else 0
        self.dropped += len(data) - written

    def close(self) -> None:
        if self.dropped:
            self._append(b"\n[the log is full: %d bytes dropped]\n" % self.dropped)

    def _append(self, data: bytes) -> int:
        if not data:
            return 0
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            return os.write(self._file, data)
        except OSError:
            return 0


def _tend(child: int, output: int, log: _Log) -> tuple[int, int]:
    """Keep the log until the command has ended and all that it left is dead; exit code and bytes dropped."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(output, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while True:
        ready = {found for found, _ in poll.poll()}
        if ended in ready:
            break
        data = os.read(output, _CHUNK)
        log.write(data)
        if not data:
            poll.unregister(output)
    status = os.waitpid(child, 0)[1]
    _kill_the_rest()
    rest = select.poll()
    rest.register(output, select.POLLIN)
    until = time.monotonic() + _DRAIN
    while rest.poll(_DRAIN * 1000) and time.monotonic() < until:
        data = os.read(output, _CHUNK)
        if not data:
            break
        log.write(data)
    log.close()
    code = os.waitstatus_to_exitcode(status)
    return (128 - code if code < 0 else code), log.dropped


def _kill_the_rest() -> None:
    """Kill and reap the keeper's children until there is none; orphans of the killed become its children in turn."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for found in processes():
            if found.parent == os.getpid():
                send(found.pid, signal.SIGKILL)
        os.waitpid(-1, 0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
