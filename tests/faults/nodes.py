"""Faults of a node: its worker, its machine, its disk, its Docker."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import suppress

import docker

from fdn_worker.launchers.process_tree import Keeper
from fdn_worker.protocol import State
from federation.presence import presence
from tests.faults.ground import Ground
from tests.faults.matrix import fault
from tests.support.rig import name_of, processes_below
from tests.support.waiting import SOON, eventually

FAILED, LOST = frozenset({State.FAILED}), frozenset({State.LOST})
#: Between two states each, and around what is done outside the journal.
POINTS = (
    *(f"{when}:record:{write}" for when in ("before", "after") for write in ("accepted", "started", "exited", "uploaded", "done")),
    "before:receive", "after:receive", "before:ack:task-order", "after:make-folder", "before:start", "after:start", "after:follow",
    "before:put", "after:put", "after:publish:task-event ACCEPTED", "before:publish:task-event SUCCEEDED", "after:remove",
)  # fmt: skip


@fault(1, "worker killed", mixes=True, weight=8)
def killed(ground: Ground) -> Iterator[None]:
    ground.rig.kill(ground.node)
    yield
    ground.rig.start(ground.node)


@fault(1, "worker killed between two states", weight=8)
def killed_at_a_point(ground: Ground) -> Iterator[None]:
    ground.rig.kill(ground.node)
    dying = ground.rig.start_dying(ground.node, ground.chance.choice(POINTS))
    ground.send()
    ground.go(*ground.cases)  # the first that is followed may be any of them
    assert dying.wait(SOON) == -signal.SIGKILL
    yield
    ground.rig.start(ground.node)


@fault(2, "worker stands still for three heartbeats", weight=1)
def stopped(ground: Ground) -> Iterator[None]:
    ground.signal(signal.SIGSTOP)
    eventually("the node is suspect", lambda: _presence(ground) == "suspect")
    yield
    ground.signal(signal.SIGCONT)
    eventually("it is heard again", lambda: _presence(ground) == "connected")


@fault(3, "host goes down with its tasks", weight=3)
def rebooted(ground: Ground) -> Iterator[None]:
    doomed = list(ground.cases)
    ground.rig.kill(ground.node)
    state = ground.rig.state_dir(ground.node)
    keepers = [keeper.pid for case in doomed if (keeper := Keeper.of(state / "process" / name_of(case.submission)))]
    for pid in (*keepers, *processes_below(state)):
        with suppress(ProcessLookupError):  # it went with its keeper
            os.kill(pid, signal.SIGKILL)
    yield
    ground.rig.start(ground.node)
    for case in doomed:
        case.ends = LOST
        ground.again(case)


@fault(30, "nothing can be written at the node", held=True)
def full(ground: Ground) -> Iterator[None]:
    """A limit of 0 on the size of the worker's files refuses each write, as a full disk does."""
    worker = ground.rig.federation.workers[ground.node]
    hard = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (0, hard))
    comes = ground.send()
    eventually("it says so", lambda: any("journal" in problem for problem in _problems(ground)))
    assert ground.rig.history(comes.submission) == []
    yield
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (hard, hard))
    ground.go(comes)
    eventually("it says that it is over", lambda: not any("journal" in problem for problem in _problems(ground)))


@fault(4, "dockerd killed, its containers live on", kind="docker", weight=2)
def docker_killed(ground: Ground) -> Iterator[None]:
    assert ground.own.docker is not None
    for case in ground.cases:
        case.lines = None  # what a container says while dockerd is away, Docker may lose
    ground.own.docker.kill()
    yield
    ground.own.start_docker()


@fault(5, "dockerd killed with its containers", kind="docker", held=True, weight=1)
def docker_killed_with_all(ground: Ground) -> Iterator[None]:
    assert ground.own.docker is not None
    doomed = list(ground.cases)
    ground.own.keep_alive(False)
    _start_again(ground)  # what Docker is like is asked once
    ground.own.docker.kill()
    yield
    ground.own.start_docker()
    for case in doomed:
        case.ends = LOST
        ground.again(case)
    ground.own.keep_alive(True)
    _start_again(ground)


@fault(6, "Docker hangs", kind="docker", weight=1)
def docker_hangs(ground: Ground) -> Iterator[None]:
    """Calls are bounded: what is to start meanwhile fails as the infrastructure's fault, what runs is followed on."""
    assert ground.own.docker is not None
    os.kill(ground.own.docker.process.pid, signal.SIGSTOP)
    comes = ground.send(ends=FAILED)
    eventually("it is given up", lambda: ground.rig.centre.attempt(comes.submission.run, 1).state is State.FAILED)
    assert ground.rig.history(comes.submission)[-1].reason.fault == "infrastructure"  # type: ignore[union-attr]
    yield
    os.kill(ground.own.docker.process.pid, signal.SIGCONT)
    ground.again(comes)


@fault(7, "container made, the worker killed before it knew", kind="docker")
def reply_lost(ground: Ground) -> Iterator[None]:
    ground.rig.kill(ground.node)
    dying = ground.rig.start_dying(ground.node, ground.chance.choice(("before", "after")) + ":start-container")
    case = ground.send()
    assert dying.wait(SOON) == -signal.SIGKILL
    yield
    ground.rig.start(ground.node)
    ground.rig.reach(case.submission, State.RUNNING)
    ground.go(case)


@fault(8, "container removed from outside", kind="docker")
def removed(ground: Ground) -> Iterator[None]:
    case = ground.begin(ends=LOST)
    api = docker.APIClient(base_url=ground.own.services(with_docker=True).docker_host)
    api.remove_container(name_of(case.submission), force=True)
    api.close()
    yield
    ground.again(case)


def _start_again(ground: Ground) -> None:
    ground.rig.stop(ground.node)
    ground.rig.start(ground.node)


def _presence(ground: Ground) -> str:
    (found,) = [node.presence for node in presence(ground.rig.centre.records) if node.name == ground.node]
    return found


def _problems(ground: Ground) -> tuple[str, ...]:
    (found,) = [node.problems for node in presence(ground.rig.centre.records) if node.name == ground.node]
    return found
