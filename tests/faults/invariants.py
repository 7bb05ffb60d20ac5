"""What must hold after every fault, checked by one function."""

from __future__ import annotations

import time
from datetime import timedelta

import docker

from fdn_worker.protocol import State
from fdn_worker.protocol.manifest import MANIFEST_PATH
from fdn_worker.protocol.names import (
    BEATS,
    DEAD_INBOX,
    INBOX,
    command_queue,
    control_queue,
    dead_letter_queue,
    down_queue,
    up_queue,
)
from federation.centre import Submission
from federation.results import TaskResult
from federation.waiting import LENIENCE
from storage.keys import attempt_prefix
from tests.faults.ground import TASK, Case, Ground
from tests.support.rig import eventually, name_of
from tests.support.services import manage

#: Seconds for all runs to end once the fault is over; a lost connection is tried again after a minute at most.
PATIENCE = 150.0


def check(ground: Ground) -> float:
    """Every run has one end, as it may; every attempt ran once at most; nothing is lost, and nothing is left. Seconds until all had ended."""
    ended = [(case, one, ground.rig.result(one, PATIENCE), ends) for case in ground.cases for one, ends in case.attempts]
    seconds = time.monotonic() - ground.mended
    for case, one, result, ends in ended:
        assert result.state in ends, f"{result.explain()}, and not {sorted(ends)}"
        ground.rig.check_told_once(one)
        _check_in_time(ground, one)
        if not case.ghost:
            _check_ran_once(ground, case, one, result)
        if result.state is State.SUCCEEDED and case.request.argv[2] == TASK:
            _check_whole(ground, case, one, result)
        _check_store(ground, one, result)
    ground.rig.check_clean(ground.node)
    assert ground.alive(), "the worker has ended"
    for queue in (INBOX, DEAD_INBOX):
        eventually(f"{queue} is empty", lambda queue=queue: _depth(ground, queue) == 0)  # type: ignore[misc]
    ground.forget()
    _check_queues(ground)
    return seconds


def _check_in_time(ground: Ground, one: Submission) -> None:
    deadline = ground.rig.centre.attempt(one.run, one.attempt).deadline
    last = ground.rig.history(one)[-1].at
    assert last <= deadline + timedelta(seconds=LENIENCE), f"it ended at {last}, past its deadline {deadline}"


def _check_ran_once(ground: Ground, case: Case, one: Submission, result: TaskResult) -> None:
    """An attempt that succeeded was executed once, any other not twice, and one that was refused not at all."""
    if ground.containers:
        ran = _started(ground, one)
        if result.state is State.SUCCEEDED:  # a dockerd that was killed has forgotten what it did
            assert ground.rig.output(result, "outputs/count") == b"/sandbox\n"
    else:
        ran = case.count.read_text().splitlines().count(f"{ground.rig.folder(one)}/sandbox") if case.count.exists() else 0
        assert ran == 1 or result.state is not State.SUCCEEDED, f"{one} ran {ran} times"
    assert ran <= 1, f"{one} ran {ran} times"
    assert ran == 0 or not (case.never or result.state is State.REJECTED), f"{one} ran, which it must not"


def _started(ground: Ground, one: Submission) -> int:
    """How often Docker started its container, as far as it remembers."""
    api = docker.APIClient(base_url=ground.own.services(with_docker=True).docker_host)
    wanted = {"event": ["start"], "label": [f"fdn.name={name_of(one)}"]}
    # Docker takes fractions of a second, which the SDK's types do not know.
    events = api.events(since=int(ground.began), until=f"{time.time():.6f}", filters=wanted, decode=True)  # type: ignore[call-overload]
    count = len(list(events))
    api.close()
    return count


def _check_whole(ground: Ground, case: Case, one: Submission, result: TaskResult) -> None:
    assert ground.rig.output(result, "outputs/out.txt") == b"result\n"
    said = tuple(line for event in ground.rig.history(one) for line in event.lines)
    assert case.lines in (None, said), f"its log says {said}"


def _check_store(ground: Ground, one: Submission, result: TaskResult) -> None:
    """What the store has is what the manifest lists."""
    prefix = attempt_prefix(one.execution, one.task, one.node, one.attempt)
    listed = {file.key for file in result.files} | {prefix + MANIFEST_PATH}
    left = {info.key for info in ground.rig.centre.store.list(prefix)} - listed
    # A cancel may come between two files, which retention then deletes.
    assert not left or result.state is State.CANCELLED, f"the store holds {sorted(left)}"


def _check_queues(ground: Ground) -> None:
    """Those of the centre and of the nodes are there, and no other."""
    place = ground.node  # the virtual host's name, too
    found = {queue["name"] for queue in manage(ground.own.services(with_docker=False), "GET", f"queues/{place}?columns=name")}
    kinds = (command_queue, control_queue, dead_letter_queue, up_queue, down_queue)
    standing = {INBOX, DEAD_INBOX, BEATS, *(queue(node) for queue in kinds for node in (ground.node, ground.ghost))}
    assert found == standing, f"queues too many or too few: {sorted(found ^ standing)}"


def _depth(ground: Ground, queue: str) -> int:
    depth = ground.rig.centre.broker.depth(queue)
    assert depth is not None
    return depth.messages
