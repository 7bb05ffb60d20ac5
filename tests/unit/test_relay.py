"""The relay: records what nodes say, passes it on, answers them, and lets no message stop it."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fdn_worker.brokers import Binding, Delivery, Queue, connect
from fdn_worker.errors import FdnError, SettingsError, StoreUnavailable
from fdn_worker.protocol import (
    Answer,
    Complete,
    Endpoint,
    Grant,
    Heartbeat,
    Keyring,
    Message,
    Refusal,
    Signer,
    State,
    TaskEvent,
    TransferRequest,
    decode,
    now,
    pack,
    unpack,
)  # fmt: skip
from fdn_worker.protocol.envelope import key_id_of
from fdn_worker.protocol.names import BEAT_KEY, DEAD_INBOX, EVENT_KEY, EXECUTIONS, INBOX, control_queue, event_exchange, execution_queue
from fdn_worker.protocol.upload import FinishedFile, PartETag, TransferFile
from federation import relay as module
from federation.centre import Centre, Submission
from federation.enrol import enrol, retire
from federation.relay import Relay
from federation.request import TaskRequest
from tests.support.waiting import SOON
from tests.unit.helpers import OPEN, an_event, an_id

KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number, name in enumerate(("centre", "site-a", "site-b"))}


class Followed:
    """What comes out of a queue, and a wait for the number of it."""

    def __init__(self, centre: Centre, queue: str, read: Callable[[bytes], Message]) -> None:
        self.messages: list[Any] = []
        self.changed = threading.Condition()
        self.read = read
        self.subscription = centre.broker.consume(queue, self.heard)

    def heard(self, delivery: Delivery) -> None:
        with self.changed:
            self.messages.append(self.read(delivery.body))
            self.changed.notify_all()
        delivery.ack()

    def wait(self, count: int) -> list[Any]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.messages) >= count, SOON), self.messages
            return list(self.messages)


@pytest.fixture
def submission(centre: Centre) -> Submission:
    """A run at site-a, and one at site-b under the same key."""
    return centre.stage_in(TaskRequest(node="site-a", argv=("true",)), "k")


@pytest.fixture
def relay(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    monkeypatch.setattr(module, "PAUSE", 0.01)
    relay = centre.relay()
    relay.start()
    yield relay
    relay.stop()
    assert not relay._thread.is_alive()


@pytest.fixture
def follower(centre: Centre, submission: Submission) -> Followed:
    return Followed(centre, centre.listen(submission.execution), decode)


@pytest.fixture
def answers(centre: Centre) -> Followed:
    return Followed(centre, control_queue("site-a"), lambda body: unpack(body, OPEN)[0])


@pytest.fixture
def dead(centre: Centre) -> Followed:
    return Followed(centre, DEAD_INBOX, lambda body: body)  # type: ignore[arg-type, return-value]


def say(centre: Centre, message: Message | bytes, node: str = "site-a", key: str = EVENT_KEY, signer: Signer | None = None) -> None:
    body = message if isinstance(message, bytes) else pack(message, signer or Signer())
    centre.broker.publish(body, exchange=event_exchange(node), key=key, message_id="m")


def event(centre: Centre, submission: Submission, number: int, **fields: Any) -> TaskEvent:
    return an_event(centre.order(submission.run, submission.attempt), number, **fields)


def test_news_are_what_a_suspended_flow_may_wait_for_once_it_is_recorded(centre: Centre, submission: Submission) -> None:
    told: queue.Queue[tuple[set[str], str]] = queue.Queue()
    relay = centre.relay(lambda ids: told.put((ids, centre.records.runs_of(str(submission.execution))[0].state)))
    relay.start()
    say(centre, event(centre, submission, 1, state=State.RUNNING))
    say(centre, event(centre, submission, 2, lines=("x",)))
    say(centre, event(centre, submission, 3, listening=(Endpoint(host="h", port=1, published=1),)))
    assert told.get(timeout=SOON) == ({str(submission.execution)}, "RUNNING")
    say(centre, event(centre, submission, 4, state=State.SUCCEEDED))
    assert told.get(timeout=SOON) == ({str(submission.execution)}, "SUCCEEDED")
    say(centre, event(centre, submission, 4, state=State.SUCCEEDED))
    relay.stop()
    assert told.empty()


def a_request(submission: Submission, **changes: Any) -> TransferRequest:
    """For the URL of a small output."""
    fields = {"request": an_id(1), "node": "site-a", "run": submission.run, "attempt": submission.attempt, "direction": "put"}
    return TransferRequest(**{"files": (TransferFile(path="outputs/a", size=9, part_size=5),)} | fields | changes)


def test_events_are_recorded_and_passed_on_as_they_came(centre: Centre, submission: Submission, relay: Relay, follower: Followed) -> None:
    said = [event(centre, submission, 1, state=State.ACCEPTED), event(centre, submission, 2, lines=("é",), colour="red")]
    for one in said:
        say(centre, one)
    assert follower.wait(2) == said
    assert centre.records.events_of(str(submission.run), 1) == said
    assert centre.attempt(submission.run, 1).state is State.ACCEPTED


def test_a_repeat_is_passed_on_once(centre: Centre, submission: Submission, relay: Relay, follower: Followed) -> None:
    first, last = event(centre, submission, 1, state=State.ACCEPTED), event(centre, submission, 2, state=State.RUNNING)
    for one in (first, first, last):
        say(centre, one)
    assert follower.wait(2) == [first, last]


def test_heartbeats_are_recorded(centre: Centre, relay: Relay, submission: Submission, follower: Followed) -> None:
    beat = Heartbeat(node="site-a", session=an_id(1), number=1, at=now(), interval=2.0, worker_version="x", slots=2, slots_free=1)
    say(centre, beat, key=BEAT_KEY)
    say(centre, event(centre, submission, 1, lines=("after",)))
    follower.wait(1)
    relay.stop()
    row = centre.records.node("site-a")
    assert row is not None
    assert row.heartbeat is not None
    assert Heartbeat.model_validate_json(row.heartbeat) == beat


def test_a_request_is_answered(centre: Centre, submission: Submission, relay: Relay, answers: Followed) -> None:
    say(centre, a_request(submission))
    say(centre, a_request(submission, request=an_id(2), attempt=2))
    grant, refusal = answers.wait(2)
    assert isinstance(grant, Grant)
    assert isinstance(refusal, Refusal)
    assert (grant.request, refusal.request, refusal.code) == (an_id(1), an_id(2), "fenced")


def test_an_older_attempt_is_fenced_off(centre: Centre, submission: Submission, relay: Relay, answers: Followed) -> None:
    centre.order_again(submission.run, 2)
    say(centre, a_request(submission))
    assert answers.wait(1)[0].code == "fenced"


NESTED = b'{"version": 1, "key_id": "", "algorithm": "none", "signature": "", "payload": "%s"}' % (b"[" * 100_000)


@pytest.mark.parametrize(
    "body", [b"noise", b"[" * 100_000, NESTED, b"\xff", b"{}"], ids=["noise", "nested", "nested inside", "bytes", "empty"]
)
def test_what_cannot_be_read_goes_to_the_dead_letters(
    centre: Centre, submission: Submission, relay: Relay, follower: Followed, dead: Followed, body: bytes
) -> None:
    say(centre, body)
    say(centre, event(centre, submission, 1, lines=("alive",)))
    assert follower.wait(1)[0].lines == ("alive",)
    assert dead.wait(1) == [body]


@pytest.mark.parametrize(
    "changes",
    [
        {"at": "0001-01-01T00:00:00+05:00"},
        {"version": "2.0"},
        {"kind": "gossip"},
        {"node": "site-b"},
        {"number": 0},
    ],
    ids=str,
)
def test_no_message_of_a_node_stops_it(
    centre: Centre, submission: Submission, relay: Relay, follower: Followed, dead: Followed, changes: dict[str, Any]
) -> None:
    good = event(centre, submission, 1, lines=("alive",))
    payload = {"kind": good.kind, **good.model_dump(mode="json")} | changes
    say(centre, Signer().seal(json.dumps(payload).encode()))
    say(centre, good)
    assert follower.wait(1) == [good]
    assert len(dead.wait(1)) == 1


@pytest.mark.parametrize("parts", [[0], [-1], [20_000]])
def test_no_request_of_a_node_stops_it(
    centre: Centre, submission: Submission, relay: Relay, follower: Followed, dead: Followed, parts: list[int]
) -> None:
    request = a_request(submission)
    payload = {"kind": request.kind, **request.model_dump(mode="json")}
    payload["files"][0]["parts"] = parts
    say(centre, Signer().seal(json.dumps(payload).encode()))
    say(centre, event(centre, submission, 1, lines=("alive",)))
    follower.wait(1)
    assert len(dead.wait(1)) == 1


def test_an_event_of_no_known_attempt_is_dropped(centre: Centre, submission: Submission, relay: Relay, follower: Followed) -> None:
    good = event(centre, submission, 1, state=State.ACCEPTED)
    say(centre, good.model_copy(update={"attempt": 7}))
    say(centre, good.model_copy(update={"run": an_id(3)}))
    say(centre, good)
    assert follower.wait(1) == [good]


def test_a_node_speaks_for_itself_alone(centre: Centre, submission: Submission, follower: Followed, dead: Followed) -> None:
    """site-b says that the run of site-a has ended, in the batch in which site-a says otherwise."""
    forged = event(centre, submission, 1, state=State.SUCCEEDED)
    say(centre, forged, node="site-b")
    say(centre, forged.model_copy(update={"node": "site-b"}), node="site-b")
    say(centre, event(centre, submission, 1, state=State.ACCEPTED))
    say(centre, event(centre, submission, 2, state=State.RUNNING))
    relay = centre.relay()
    relay.start()
    assert [one.state for one in follower.wait(2)] == [State.ACCEPTED, State.RUNNING]
    assert len(dead.wait(1)) == 1
    relay.stop()
    assert centre.attempt(submission.run, 1).state is State.RUNNING


def test_a_retired_nodes_request_holds_up_nobody(
    centre: Centre, submission: Submission, follower: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(centre, a_request(submission, node="site-b"), node="site-b")
    retire(centre.broker, centre.records, "site-b")
    say(centre, event(centre, submission, 1, lines=("alive",)))
    relay = centre.relay()
    relay.start()
    follower.wait(1)
    relay.stop()
    depth = centre.broker.depth(INBOX)
    assert depth is not None
    assert depth.messages == 0


@pytest.mark.parametrize("error", [StoreUnavailable("records are away"), SettingsError("odd")])
def test_while_records_are_away_messages_wait(
    centre: Centre, submission: Submission, relay: Relay, follower: Followed, monkeypatch: pytest.MonkeyPatch, error: FdnError
) -> None:
    record, failures = centre.records.record_events, [error] * 3

    def failing(said: Any) -> Any:
        if failures:
            raise failures.pop()
        return record(said)

    monkeypatch.setattr(centre.records, "record_events", failing)
    good = event(centre, submission, 1, state=State.ACCEPTED)
    say(centre, good)
    assert follower.wait(1) == [good]
    assert failures == []


def test_what_was_recorded_but_not_passed_on_is_passed_on_by_the_next(centre: Centre, submission: Submission, follower: Followed) -> None:
    """The first relay was killed in between: its delivery comes again, marked so."""
    good = event(centre, submission, 1, state=State.ACCEPTED)
    say(centre, good)
    taken = threading.Event()
    first = connect(centre.settings.broker_url.get_secret_value())
    first.consume(INBOX, lambda _: taken.set())
    assert taken.wait(SOON)
    centre.records.record_events([good])
    first.close()
    second = centre.relay()
    second.start()
    assert follower.wait(1) == [good]
    second.stop()


def test_nobody_need_follow(centre: Centre, submission: Submission, relay: Relay, answers: Followed) -> None:
    """The answer shows that what was said before it has been handled."""
    say(centre, event(centre, submission, 1, state=State.ACCEPTED))
    finished = FinishedFile(path="outputs/a", upload_id="u", size=1, parts=(PartETag(number=1, etag="e"),))
    say(centre, Complete(request=an_id(1), node="site-a", run=submission.run, attempt=1, files=(finished,)))
    answers.wait(1)
    assert [one.number for one in centre.records.events_of(str(submission.run), 1)] == [1]


@pytest.fixture
def signed(centre: Centre) -> Iterator[Relay]:
    """A relay that takes no unsigned word."""
    for node in ("site-a", "site-b"):
        enrol(centre.broker, centre.records, node, public_key=Signer(node, KEYS[node]).public_key())
    relay = Relay(centre.broker, centre.records, centre.store, Signer("centre", KEYS["centre"]), unsigned_ok=False)
    relay.start()
    yield relay
    relay.stop()


def test_signatures_are_checked_against_the_sender(
    centre: Centre, submission: Submission, signed: Relay, follower: Followed, dead: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    good = event(centre, submission, 1, state=State.ACCEPTED)
    say(centre, good)
    say(centre, good, signer=Signer("site-b", KEYS["site-b"]))
    say(centre, good, signer=Signer("site-a", KEYS["site-b"]))
    say(centre, good, signer=Signer("site-a", KEYS["site-a"]))
    assert follower.wait(1) == [good]
    assert len(dead.wait(3)) == 3
    said = " ".join(record.getMessage() for record in caplog.records)
    for words in ("is unsigned", "signed by 'site-b', came from site-a", "does not fit the message"):
        assert words in said


def test_a_node_changes_its_key_without_a_gap(
    centre: Centre, submission: Submission, signed: Relay, follower: Followed, dead: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEYS_SECONDS", 0.0)
    new = Signer("site-a", Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32))
    old, new = (Signer(key_id_of("site-a", one.public_key()), one.key) for one in (Signer("site-a", KEYS["site-a"]), new))
    said = [event(centre, submission, number, lines=(str(number),)) for number in range(1, 6)]
    say(centre, said[0], signer=new)
    assert len(dead.wait(1)) == 1
    centre.records.keys.add("site-a", new.public_key())
    say(centre, said[1], signer=old)
    say(centre, said[2], signer=new)
    assert follower.wait(2) == said[1:3]
    centre.records.keys.revoke("site-a", old.key_id, "stolen")
    say(centre, said[3], signer=old)
    say(centre, said[4], signer=new)
    assert follower.wait(3) == [*said[1:3], said[4]]
    assert len(dead.wait(2)) == 2


def test_a_key_that_was_just_added_is_looked_up(centre: Centre, submission: Submission, signed: Relay, follower: Followed) -> None:
    """What a node says with its new key is not lost because the relay read the keys a moment ago."""
    first, second = event(centre, submission, 1, lines=("a",)), event(centre, submission, 2, lines=("b",))
    say(centre, first, signer=Signer("site-a", KEYS["site-a"]))
    assert follower.wait(1) == [first]
    new = Signer("site-a", Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32))
    row = centre.records.keys.add("site-a", new.public_key())
    signed._keys_read -= 2.0
    say(centre, second, signer=Signer(row.key_id, new.key))
    assert follower.wait(2) == [first, second]


def test_an_embedded_relay_takes_nothing_unsigned_of_a_node_with_a_key(
    centre: Centre, submission: Submission, relay: Relay, follower: Followed, dead: Followed
) -> None:
    enrol(centre.broker, centre.records, "site-a", public_key=Signer("site-a", KEYS["site-a"]).public_key())
    good = event(centre, submission, 1, state=State.ACCEPTED)
    say(centre, good)
    assert len(dead.wait(1)) == 1
    say(centre, good, signer=Signer("site-a", KEYS["site-a"]))
    assert follower.wait(1) == [good]


def test_answers_are_signed(centre: Centre, submission: Submission, signed: Relay) -> None:
    ring = Keyring({"centre": Signer("centre", KEYS["centre"]).public_key()})
    answers = Followed(centre, control_queue("site-a"), lambda body: unpack(body, ring)[0])
    say(centre, a_request(submission), signer=Signer("site-a", KEYS["site-a"]))
    assert isinstance(answers.wait(1)[0], Grant)


def test_an_answer_goes_to_who_asked_alone(
    centre: Centre, submission: Submission, relay: Relay, follower: Followed, dead: Followed
) -> None:
    queue = execution_queue(an_id(7), "ask")
    centre.broker.declare(Queue(queue, expires=60, replicated=False), Binding(EXECUTIONS, queue, str(an_id(7))))
    asker = Followed(centre, queue, decode)
    answer = Answer(request=an_id(7), node="site-a", at=now(), about="health", accepting=False)
    # One that nobody waits for, and one in another's name, do no harm.
    say(centre, answer.model_copy(update={"request": an_id(8)}))
    say(centre, answer.model_copy(update={"node": "site-b"}))
    say(centre, answer)
    assert asker.wait(1) == [answer]
    dead.wait(1)
    assert follower.messages == []
