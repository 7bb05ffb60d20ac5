"""Messages as earlier versions wrote them. The files are frozen: a release that cannot read them needs a new major version.

Each file is an envelope signed with the Ed25519 key whose private half is the bytes 0 to 31; a new kind gets a new file,
and so does a kind with new fields, in the folder of the version that brings them.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from fdn_worker import protocol
from fdn_worker.errors import Fault, MessageError
from fdn_worker.protocol import (
    MESSAGES,
    Answer,
    Endpoint,
    Heartbeat,
    Inquiry,
    Keyring,
    Manifest,
    Port,
    Signer,
    State,
    TaskEvent,
    TaskOrder,
    pack,
    unpack,
)
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.protocol.image import vouches

HERE = Path(__file__).parent
SAMPLES = sorted(HERE.glob("v*/*.json"))
RING = Keyring({"sample": "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="})
RUN = "b497b28b-4ff4-5e8e-a0e6-f6233c59a5af"


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is warned of from here on, nothing having been warned of before."""
    monkeypatch.setattr(protocol, "_warned", set())
    caplog.set_level(logging.WARNING, "fdn_worker.protocol")
    return caplog


def test_every_kind_has_a_sample() -> None:
    assert {path.stem for path in SAMPLES} == set(MESSAGES)


def holds(today: Any, frozen: Any) -> bool:
    """Whether all that was written is there: a newer minor version adds fields, at any depth, and changes no value."""
    if isinstance(frozen, dict):
        return all(name in today and holds(today[name], value) for name, value in frozen.items())
    if isinstance(frozen, list):
        return len(today) == len(frozen) and all(map(holds, today, frozen))
    return bool(today == frozen)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_sample_is_read_whole(path: Path, warned: pytest.LogCaptureFixture) -> None:
    message, key_id = unpack(path.read_bytes(), RING)
    assert (message.kind, key_id) == (path.stem, "sample")
    frozen, today = json.loads(payload_of(path.read_bytes())), json.loads(payload_of(pack(message, Signer())))
    assert holds(today, frozen)
    assert frozen["version"] == path.parent.name.removeprefix("v")
    assert not warned.records


def test_values_of_samples() -> None:
    order, _ = unpack((HERE / "v1.0/task-order.json").read_bytes(), RING)
    assert isinstance(order, TaskOrder)
    assert order.argv == ("mean", "--in", "$DATA_PATH/census", "é")
    assert (order.attempt, order.resources.memory, order.inputs[0].size) == (2, 2 * 1024**3, 123_456_789_012)
    assert order.run == UUID(RUN)
    event, _ = unpack((HERE / "v1.0/task-event.json").read_bytes(), RING)
    assert isinstance(event, TaskEvent)
    assert (event.state, event.lines, event.message_id) == (State.FAILED, ("one", "zwei é"), f"{RUN}.2.7")


def test_an_old_order_asks_for_nothing_new() -> None:
    order, _ = unpack((HERE / "v1.0/task-order.json").read_bytes(), RING)
    assert isinstance(order, TaskOrder)
    assert (order.ports, order.servers, order.mounts, order.checks, order.sandbox, order.moves) == ((), (), (), (), None, ())


def test_values_of_samples_of_1_1() -> None:
    order, _ = unpack((HERE / "v1.1/task-order.json").read_bytes(), RING)
    assert isinstance(order, TaskOrder)
    assert order.ports == (Port(container=8080), Port(container=9090, host=20001))
    assert order.servers[0].ports == {8080: 20000}
    assert [mount.kind for mount in order.mounts] == ["dataset", "sandbox", "host"]
    assert order.image_digest is not None
    assert order.image_signature is not None
    assert vouches(RING.keys["sample"], order.image_digest, order.image_signature)
    assert order.trace == f"00-{UUID(RUN).hex}-572e76e3e1264e47-01"
    event, _ = unpack((HERE / "v1.1/task-event.json").read_bytes(), RING)
    assert isinstance(event, TaskEvent)
    assert event.listening == (Endpoint(port=8080, host="site-a.example", published=20000),)
    inquiry, _ = unpack((HERE / "v1.1/inquiry.json").read_bytes(), RING)
    assert isinstance(inquiry, Inquiry)
    assert inquiry.orders == (order,)
    manifest, _ = unpack((HERE / "v1.1/manifest.json").read_bytes(), RING)
    assert isinstance(manifest, Manifest)
    assert manifest.release is not None
    assert (manifest.release.verdict, manifest.release.person, manifest.release.withheld) == ("partly", "eve", 2)
    beat, _ = unpack((HERE / "v1.1/heartbeat.json").read_bytes(), RING)
    assert isinstance(beat, Heartbeat)
    assert beat.audit is not None
    assert (beat.audit.number, beat.trusts) == (41, ("centre", "centre-2"))
    answer, _ = unpack((HERE / "v1.1/answer.json").read_bytes(), RING)
    assert isinstance(answer, Answer)
    assert answer.plans[0].reasons[0].fault is Fault.POLICY


@pytest.mark.parametrize(
    ("name", "version", "unknown"),
    [("unknown-field", "1.0", {"priority": 9, "resources.tpus": 4}), ("v1.7", "1.7", {"wishes": ["/x"]})],
)
def test_what_a_newer_minor_version_adds_is_kept(
    name: str, version: str, unknown: dict[str, object], warned: pytest.LogCaptureFixture
) -> None:
    body = (HERE / f"{name}.json").read_bytes()
    message, _ = unpack(body, RING)
    unpack(body, RING)
    assert message.version == version
    assert holds(json.loads(payload_of(pack(message, Signer()))), json.loads(payload_of(body)))
    assert sorted(record.getMessage() for record in warned.records) == sorted(
        f"unknown field {field} in task-order (version {version}) is kept" for field in unknown
    )


def test_another_major_version_is_refused() -> None:
    with pytest.raises(MessageError) as caught:
        unpack((HERE / "v2.0.json").read_bytes(), RING)
    assert str(caught.value) == "task-order has version '2.0' (this side speaks 1.1; upgrade the older of the two)"
