"""The wire contract between the centre and its nodes, version 1.1.

Every message is a frozen JSON object with `kind` and `version`, sealed in an envelope (`envelope.py`).

| message | way | through |
|---|---|---|
| TaskOrder | centre -> node | queue `cmd.<node>` |
| ControlRequest, Inquiry, Grant, Completed, Taken, Refusal | centre -> node | queue `ctl.<node>` |
| TaskEvent, Heartbeat, Answer, TransferRequest, Fetch, Complete, Abort | node -> centre | exchange `evt.<node>`, bound to queue `inbox` |
| TaskEvent, again, as it came | relay -> followers | exchange `executions`, key the execution id, queues `exe.<execution>.<follower>` |
| Answer, again, as it came | relay -> who asked | exchange `executions`, key the request id |
| Chunk | node -> centre | exchange `evt.<node>`, bound to queue `up.<node>` |
| Chunk | centre -> node | queue `down.<node>` |
| Manifest | node -> store | object `manifest.json` of the attempt |

Rules that both sides keep:

- `pack` and `unpack` are inverses. A reader keeps fields that it does not know, warns of them once and goes on; a
  message of another major version, of an unknown kind or that cannot be decoded is a MessageError.
- A receiver drops duplicates by `message_id`: for an order run and attempt, for an event its number beside them.
- An order is acknowledged once it stands in the node's journal. The centre alone issues attempts; a node that gets
  an order again sends the attempt's last state again, and runs nothing twice.
- The sender of an event is the node that owns the exchange, which the broker vouches for, and the key of the envelope.
- Times are UTC with their zone; sizes are bytes; durations are seconds.
"""

from __future__ import annotations

import json
import logging

from pydantic import ValidationError

from fdn_worker.errors import MessageError
from fdn_worker.protocol.base import WIRE_VERSION, Message, now
from fdn_worker.protocol.chunk import Chunk, Fetch, Taken
from fdn_worker.protocol.control import ControlRequest
from fdn_worker.protocol.envelope import Keyring, Signer
from fdn_worker.protocol.event import Endpoint, Reason, Release, Report, TaskEvent, Usage
from fdn_worker.protocol.heartbeat import Heartbeat, Present
from fdn_worker.protocol.inquiry import Answer, Health, ImageHere, Inquiry, OrderPlan
from fdn_worker.protocol.manifest import Manifest, ManifestFile
from fdn_worker.protocol.order import InputFile, Labels, Mount, Move, Port, Resources, Server, Source, TaskOrder
from fdn_worker.protocol.states import TERMINAL, IllegalTransition, State, advance
from fdn_worker.protocol.upload import (
    Abort,
    Complete,
    Completed,
    Grant,
    Refusal,
    TransferRequest,
)

log = logging.getLogger(__name__)

MESSAGES: dict[str, type[Message]] = {
    message.kind: message
    for message in (
        TaskOrder, TaskEvent, ControlRequest, Heartbeat, Manifest, TransferRequest, Grant, Complete, Completed, Abort, Refusal,
        Inquiry, Answer, Chunk, Taken, Fetch,
    )
}  # fmt: skip

_warned: set[tuple[str, str]] = set()


def pack(message: Message, signer: Signer) -> bytes:
    """The envelope with `message`, sealed, ready to send."""
    return signer.seal(json.dumps({"kind": message.kind, **message.model_dump(mode="json", exclude_defaults=False)}).encode())


def unpack(body: bytes, keyring: Keyring) -> tuple[Message, str]:
    """The message in an envelope, and the id of the key that signed it ("" when unsigned).

    Raises MessageError when the envelope, its signature, the version, the kind or a field is not right.
    """
    opened = keyring.open(body)
    return decode(opened.payload), opened.key_id


def decode(payload: bytes) -> Message:
    """The message in an envelope's payload."""
    try:
        fields = json.loads(payload)
        kind, version = fields.pop("kind"), fields.get("version", "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MessageError(f"not a message: {error!r}") from error
    model = MESSAGES.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise MessageError(f"messages of kind {kind!r} are unknown")
    if str(version).partition(".")[0] != WIRE_VERSION.partition(".")[0]:
        raise MessageError(f"{kind} has version {version!r}", remedy=f"this side speaks {WIRE_VERSION}; upgrade the older of the two")
    try:
        message = model.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or kind}: {item['msg']}" for item in error.errors())
        raise MessageError(f"{kind}: {problems}") from error
    for name in message.unknown_fields():
        if (kind, name) not in _warned:
            _warned.add((kind, name))
            log.warning("unknown field %s in %s (version %s) is kept", name, kind, version, extra={"action": "unknown-field"})
    return message


__all__ = [
    "TERMINAL", "WIRE_VERSION", "Abort", "Answer", "Chunk", "Complete", "Completed", "ControlRequest", "Endpoint", "Fetch", "Grant", "Health",
    "Heartbeat", "IllegalTransition", "ImageHere", "InputFile", "Inquiry", "Keyring", "Labels", "Manifest", "ManifestFile", "Message",
    "Mount", "Move", "OrderPlan", "Port", "Present", "Reason", "Refusal", "Release", "Report", "Resources", "Server", "Signer", "Source", "State",
    "Taken", "TaskEvent", "TaskOrder", "TransferRequest", "Usage", "advance", "decode", "now", "pack", "unpack",
]  # fmt: skip
