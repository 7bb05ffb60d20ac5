"""Faults of messages, of whoever sends them, and of the centre."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from fdn_worker.errors import Fault
from fdn_worker.protocol import Reason, Signer, State, TaskEvent, now, pack
from fdn_worker.protocol.names import (
    DEAD_INBOX,
    EVENT_KEY,
    command_queue,
    control_queue,
    dead_letter_queue,
    event_exchange,
    execution_id,
)
from federation.centre import Centre
from tests.faults.ground import Case, Ground
from tests.faults.matrix import fault
from tests.support.rig import ROOT
from tests.support.waiting import SOON, eventually

CANCELLED, REJECTED, FAILED = frozenset({State.CANCELLED}), frozenset({State.REJECTED}), frozenset({State.FAILED})
#: Where a centre dies while it submits.
STEPS = tuple(
    f"{when} {call}" for call in ("create-execution", "add-attempt", "listen", "publish", "mark-dispatched") for when in ("before", "after")
)


@fault(17, "order comes twice", mixes=True)
def twice(ground: Ground) -> Iterator[None]:
    case, again = ground.begin(), ground.said("came again")
    ground.publish(_body(ground, case))
    eventually("it came again", lambda: ground.said("came again") > again)
    yield
    ground.go(case)


@fault(18, "events out of order")
def out_of_order(ground: Ground) -> Iterator[None]:
    case = ground.send(node=ground.ghost, ends=FAILED)
    one = case.submission
    reason = Reason(code="exit-code", fault=Fault.USER, message="a test")
    states = (State.ACCEPTED, State.STAGING_IN, State.RUNNING, State.STAGING_OUT, State.FAILED)
    events = [_event(case, number, state, reason if state is State.FAILED else None) for number, state in enumerate(states, 1)]
    ground.chance.shuffle(events)
    for event in events:
        _tell(ground, event, ground.ghost)
    yield
    assert len(ground.take(command_queue(ground.ghost), 1)) == 1
    eventually("all were heard", lambda: len(ground.rig.history(one)) == len(states))


@fault(19, "cancel comes before its order")
def cancelled_before(ground: Ground) -> Iterator[None]:
    case = ground.prepare(ends=CANCELLED)
    case.never = True
    one = case.submission
    ground.rig.centre.control(one.run, one.attempt, "cancel")
    eventually("the tombstone is told of", lambda: ground.rig.history(one))
    ground.go(*([] if ground.containers else [case]))
    ground.rig.centre.dispatch(one)
    yield


@fault(20, "cancel races the task's end", mixes=True)
def raced(ground: Ground) -> Iterator[None]:
    case = ground.begin(ends=frozenset({State.SUCCEEDED, State.CANCELLED}))
    cancel = threading.Thread(target=ground.rig.centre.cancel, args=(case.submission.execution, "a test"))
    cancel.start()
    ground.go(case)
    cancel.join()
    yield


@fault(21, "undecodable messages", mixes=True)
def undecodable(ground: Ground) -> Iterator[None]:
    junk = ground.chance.choice((b"", b"\xff\xfe", b"{}", b'{"version": 99}', b"[" * 10_000, os.urandom(1000)))
    for queue in (command_queue(ground.node), control_queue(ground.node)):
        ground.publish(junk, queue)
    ground.rig.centre.broker.publish(junk, exchange=event_exchange(ground.node), key=EVENT_KEY, message_id=uuid4().hex)
    yield
    assert ground.take(dead_letter_queue(ground.node), 2) == [junk, junk]
    assert ground.take(DEAD_INBOX, 1) == [junk]


@fault(22, "order with a bad signature, and one for another node")
def unsigned(ground: Ground) -> Iterator[None]:
    case = ground.prepare()
    order = ground.rig.centre.order(case.submission.run, 1)
    ground.publish(pack(order, Signer("centre", Ed25519PrivateKey.generate())))
    ground.publish(pack(order, Signer()))
    elsewhere = ground.prepare(node=ground.ghost)
    ground.publish(_body(ground, elsewhere))
    ground.cases.remove(elsewhere)
    assert len(ground.take(dead_letter_queue(ground.node), 3)) == 3
    assert ground.rig.history(case.submission) == []
    yield
    ground.dispatch(case)
    ground.go(case)


@fault(23, "an old order is played again")
def replayed(ground: Ground) -> Iterator[None]:
    case, again = ground.begin(), ground.said("came again")
    ground.go(case)
    ground.rig.result(case.submission)
    ground.publish(_body(ground, case))
    eventually("it came again", lambda: ground.said("came again") > again)
    yield


@fault(24, "event forged by another node")
def forged(ground: Ground) -> Iterator[None]:
    case = ground.begin()
    reason = Reason(code="exit-code", fault=Fault.USER, message="forged")
    _tell(ground, _event(case, 100, State.FAILED, reason), ground.ghost)
    assert len(ground.take(DEAD_INBOX, 1)) == 1
    assert ground.rig.centre.attempt(case.submission.run, 1).state is State.RUNNING
    yield
    ground.go(case)


@fault(25, "the centre killed while it submits")
def centre_killed(ground: Ground) -> Iterator[None]:
    case = ground.prepare()
    ground.cases.remove(case)
    key, step = uuid4().hex, ground.chance.choice(STEPS)
    environment = {**os.environ, **ground.rig.federation.environment()}
    words = [sys.executable, "-m", "tests.support.dying_centre", case.request.model_dump_json(), key, *step.split(), "*", "1"]
    died = subprocess.run(words, env=environment, cwd=ROOT, timeout=SOON, check=False, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    yield
    case.key, case.submission = key, ground.rig.centre.stage_in(case.request, key)
    assert case.submission.execution == execution_id("", key)
    ground.cases.append(case)
    ground.rig.centre.dispatch(case.submission)
    ground.go(case)


@fault(26, "the centre restored from a backup")
def restored(ground: Ground) -> Iterator[None]:
    """It issues an attempt that was issued before: the node knows it, and runs nothing twice."""
    rig = ground.rig
    case = ground.begin(ends=CANCELLED)
    rig.centre.cancel(case.submission.execution, "a test")
    rig.result(case.submission)
    backup = rig.federation.home / "backup.db"
    backup.unlink(missing_ok=True)
    with sqlite3.connect(rig.federation.home / "records.db") as live, sqlite3.connect(backup) as copy:
        live.backup(copy)
    copy.close()
    live.close()
    ground.again(case)
    again = ground.said("came again")
    settings = rig.centre.settings.model_copy(update={"records_url": SecretStr(f"sqlite:///{backup}"), "relay": "service"})
    yield
    old = Centre.open(settings)
    assert old.stage_in(case.request, case.key, new_attempt=True) == case.submission
    old.dispatch(case.submission)
    old.close()
    eventually("the node has seen it before", lambda: ground.said("came again") > again)


@fault(32, "the centre's clock is off by 20 minutes")
def wrong_clock(ground: Ground) -> Iterator[None]:
    """Behind, an order comes past its deadline; ahead, it comes from the future."""
    cases = {}
    for code, minutes in (("expired", -20), ("clock", 20)):
        case = cases[code] = ground.prepare(ends=REJECTED)
        one, off = case.submission, timedelta(minutes=minutes)
        order = ground.rig.centre.order(one.run, 1)
        told = order.model_copy(update={"issued": order.issued + off, "deadline": order.deadline + off})
        ground.publish(pack(told, ground.rig.centre.signer))
        ground.rig.centre.records.mark_dispatched(str(one.run), 1, now())
    yield
    for code, case in cases.items():
        assert ground.rig.result(case.submission).reason.code == code  # type: ignore[union-attr]


def _body(ground: Ground, case: Case) -> bytes:
    return ground.rig.centre.attempt(case.submission.run, case.submission.attempt).order_body


def _event(case: Case, number: int, state: State, reason: Reason | None = None) -> TaskEvent:
    one = case.submission
    return TaskEvent(
        execution=one.execution,
        task=one.task,
        node=one.node,
        run=one.run,
        attempt=one.attempt,
        number=number,
        at=now(),
        state=state,
        reason=reason,
    )


def _tell(ground: Ground, event: TaskEvent, node: str) -> None:
    """As `node` would."""
    ground.rig.centre.broker.publish(
        pack(event, ground.signer(node)), exchange=event_exchange(node), key=EVENT_KEY, message_id=event.message_id
    )
