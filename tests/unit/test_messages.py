"""Messages: pack and unpack are inverses, what is unknown is kept, what is wrong is a MessageError and nothing else."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fdn_worker import protocol
from fdn_worker.errors import MessageError
from fdn_worker.protocol import Inquiry, Keyring, Message, Signer, TaskOrder, decode, pack, unpack
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.protocol.upload import TransferFile
from tests.unit import strategies
from tests.unit.helpers import MOMENT, OPEN, an_event, an_id, an_order


def payload(message: Message, **changes: Any) -> bytes:
    """The message's payload with fields changed, or taken away with `...`."""
    fields = json.loads(payload_of(pack(message, Signer()))) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


@settings(max_examples=100)
@given(strategies.messages)
def test_pack_and_unpack_are_inverses(message: Message) -> None:
    body = pack(message, Signer())
    again, key_id = unpack(body, OPEN)
    assert (again, type(again), key_id) == (message, type(message), "")
    assert again.message_id == message.message_id
    assert pack(again, Signer()) == body


@settings(max_examples=60)
@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=4).map(lambda x: json.dumps(x).encode())
)
def test_noise_is_a_message_error(body: bytes) -> None:
    for read in (lambda: decode(body), lambda: unpack(body, OPEN)):
        with pytest.raises(MessageError):
            read()


@pytest.mark.parametrize("nested", [b"[" * 100_000, b'{"kind":' * 100_000])
def test_a_body_nested_without_end_is_a_message_error(nested: bytes) -> None:
    with pytest.raises(MessageError, match="not a message"):
        decode(nested)
    with pytest.raises(MessageError, match="not an envelope"):
        unpack(nested, OPEN)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "task-odor"}, "messages of kind 'task-odor' are unknown"),
        ({"kind": ["task-order"]}, "are unknown"),
        ({"kind": ...}, "not a message"),
        ({"version": ...}, "task-order has version ''"),
        ({"version": "2.0"}, "task-order has version '2.0' (this side speaks 1.1; upgrade the older of the two)"),
        ({"version": "10.0"}, "version '10.0'"),
        ({"version": "1"}, "task-order: version:"),
        ({"version": 1}, "task-order: version:"),
        ({"argv": []}, "task-order: argv:"),
        ({"argv": ...}, "task-order: argv: Field required"),
        ({"argv": ["a\0b"]}, "task-order: argv.0:"),
        ({"argv": ["\ud800"]}, "task-order: argv.0:"),
        ({"node": "Site"}, "task-order: node:"),
        ({"node": "site-a\n"}, "task-order: node:"),
        ({"node": "site-b"}, "is not that of execution"),
        ({"attempt": 0}, "task-order: attempt:"),
        ({"outputs": ["../x"]}, "task-order: outputs.0: Value error, path '../x' must be relative"),
        ({"outputs": ["/etc/passwd"]}, "outputs.0"),
        ({"outputs": ["a\nb"]}, "control character"),
        ({"image": "--privileged"}, "task-order: image:"),
        ({"environment": {"A=B": "x"}}, "task-order: environment"),
        ({"datasets": ["../etc"]}, "task-order: datasets.0"),
        ({"resources": {"memory": "2GBB"}}, "task-order: resources.memory"),
        ({"timeout": float("inf")}, "task-order: timeout: Input should be a finite number"),
        ({"timeout": -1}, "task-order: timeout:"),
        ({"deadline": "2030-01-01T00:00:00"}, "task-order: deadline: Input should have timezone info"),
        ({"deadline": "0001-01-01T00:00:00+05:00"}, "has no place in UTC"),
        ({"source": {"repository": "ssh://x/y", "commit": "0" * 40}}, "must be an https:// address"),
        ({"source": {"repository": "https://x/y", "commit": "main"}}, "task-order: source.commit:"),
        ({"ports": [{"container": 0}]}, "task-order: ports.0.container:"),
        ({"ports": [{"container": 1}, {"container": 1, "host": 2}]}, "a port is named twice"),
        ({"ports": [{"container": 1, "host": 7}, {"container": 2, "host": 7}]}, "a port is named twice"),
        ({"mounts": [{"kind": "dataset", "source": "a/../b", "target": "/x"}]}, "path 'a/../b' must be relative"),
        ({"mounts": [{"kind": "sandbox", "source": "/a", "target": "/x"}]}, "path '/a' must be relative"),
        ({"mounts": [{"kind": "host", "source": "a", "target": "/x"}]}, "path 'a' must be absolute"),
        ({"mounts": [{"kind": "dataset", "source": "a", "target": "/x/../y"}]}, "task-order: mounts.0.target:"),
        ({"mounts": [{"kind": "volume", "source": "a", "target": "/x"}]}, "task-order: mounts.0.kind:"),
        ({"moves": [{"source": "..", "shelf": "s", "to": "x"}]}, "task-order: moves.0.source:"),
        ({"moves": [{"source": "", "shelf": "s", "to": "/x"}]}, "task-order: moves.0.to:"),
        ({"sandbox": "../x"}, "task-order: sandbox:"),
        ({"checks": ["/etc/passwd"]}, "task-order: checks.0:"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(MessageError) as caught:
        decode(payload(an_order(), **changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == "message"


def test_unknown_fields_are_kept_and_warned_of_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_warned", set())
    body = payload(an_order(), colour="red", resources={"cpus": 2.0, "quantum": 3}, inputs=[
        {"name": "x", "size": 1, "sha256": "a" * 64, "where": "k", "shade": None}])  # fmt: skip
    with caplog.at_level(logging.WARNING, "fdn_worker.protocol"):
        order = decode(body)
        decode(body)
    assert isinstance(order, TaskOrder)
    said = [record.getMessage() for record in caplog.records]
    assert sorted(said) == [
        f"unknown field {name} in task-order (version 1.1) is kept" for name in ("colour", "inputs.shade", "resources.quantum")
    ]
    packed = json.loads(payload_of(pack(order, Signer())))
    assert (packed["colour"], packed["resources"]["quantum"], packed["inputs"][0]["shade"]) == ("red", 3, None)


def test_a_newer_minor_version_is_read() -> None:
    order = decode(payload(an_order(), version="1.7"))
    assert order.version == "1.7"
    assert decode(payload(order)).version == "1.7"


def test_messages_are_frozen() -> None:
    order = an_order()
    with pytest.raises(ValidationError, match="frozen"):
        order.attempt = 2  # type: ignore[misc]


def test_ids_tell_repeats_from_others() -> None:
    order = an_order()
    assert order.message_id == f"{order.run}.1" != an_order(attempt=2).message_id
    assert order.name == f"fdn-{order.run}-1"
    assert an_event(order, 7).message_id == f"{order.run}.1.7"


@pytest.mark.parametrize("parts", [(0,), (-1,), (10_001,)])
def test_a_part_has_a_number_that_the_store_takes(parts: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        TransferFile(path="x", size=10, part_size=5, parts=parts)


def test_a_file_has_no_more_parts_than_the_store_takes() -> None:
    assert TransferFile(path="x", size=50_000, part_size=5)
    with pytest.raises(ValidationError, match="more than 10000 parts"):
        TransferFile(path="x", size=50_001, part_size=5)


def test_what_is_unsigned_needs_a_keyring_that_says_so() -> None:
    with pytest.raises(MessageError, match="unsigned"):
        unpack(pack(an_order(), Signer()), Keyring())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"about": "plan"}, "needs orders"),
        ({"about": "images", "action": "pull"}, "to pull an image, name it"),
        ({"about": "images", "action": "pause"}, "about images there is no action pause"),
        ({"about": "intake"}, "about intake there is no action list"),
    ],
)
def test_an_inquiry_that_makes_no_sense(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Inquiry(request=an_id(1), node="site-a", issued=MOMENT, deadline=MOMENT, **fields)
