"""What a worker writes into its audit log, on RabbitMQ with signed messages, and what the commands of both sides say of it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from fdn_worker.protocol import Inquiry, Message, Reason, Signer, State, TaskOrder, now, pack
from fdn_worker.protocol.chain import Line, read
from fdn_worker.protocol.envelope import make_key
from fdn_worker.protocol.names import command_queue, control_queue, dead_letter_queue
from federation.heads import known_heads
from federation.inquiry import ask
from federation.presence import presence
from tests.conftest import Services
from tests.support.rig import Rig
from tests.support.services import real_rig
from tests.support.waiting import SOON, eventually


@pytest.fixture(scope="module")
def house(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    name = f"audit-{time.time_ns():x}"
    with real_rig(services, tmp_path_factory.mktemp("audit"), (name,), name, launcher="process") as made:
        made.start(name)
        yield made


@pytest.fixture
def node(house: Rig) -> str:
    return house.federation.nodes[0]


def worker(house: Rig, node: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FDN_SETTINGS": str(house.federation.settings_file(node))}
    command = [sys.executable, "-m", "fdn_worker", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False, env=environment)


def fem(house: Rig, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | house.federation.environment()
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False, env=environment)


def log(house: Rig, node: str) -> list[Line]:
    paths = sorted((house.state_dir(node) / "audit").glob("*.jsonl"))
    return [read(line) for path in paths for line in path.read_text().splitlines()]


def entry(house: Rig, node: str, kind: str, **what: str) -> Line:
    """Wait until the log has it."""

    def there() -> Line | None:
        found = (line for line in log(house, node) if line.kind == kind and what.items() <= line.what.items())
        return next(found, None)

    return eventually(f"an entry {kind} {what}", there)  # type: ignore[return-value]


def refused(house: Rig, node: str, body: bytes, queue: str) -> Line:
    """What the log says of a message that goes to the dead letters."""
    before = len([line for line in log(house, node) if line.kind == "message-refused"])
    house.centre.broker.publish(body, key=queue, message_id="of-a-test")
    eventually("it is in the log", lambda: len([line for line in log(house, node) if line.kind == "message-refused"]) > before)
    taken = house.centre.broker.consume(dead_letter_queue(node), lambda delivery: delivery.ack())
    eventually("the dead letter is taken away", lambda: not house.left(node))
    taken.cancel()
    return [line for line in log(house, node) if line.kind == "message-refused"][-1]


def test_a_run_from_order_to_end(house: Rig, node: str) -> None:
    submission = house.send(node, "/bin/sh", "-c", "exit 3", user="ada", tool="count")
    result = house.result(submission)
    run = str(submission.run)
    ended = entry(house, node, "ended", run=run)
    kinds = [line.kind for line in log(house, node) if line.what.get("run") == run]
    assert kinds == ["received", "accepted", "started", "ended"]
    received = entry(house, node, "received", run=run).what
    assert (received["key_id"], received["labels"]) == ("centre", {"user": "ada", "tool": "count"})
    assert (ended.what["state"], ended.what["code"], ended.what["exit_code"]) == ("FAILED", "exit-code", 3)
    assert ended.what["manifest"] == result.report.manifest_sha256
    first = log(house, node)[:2]
    assert [line.kind for line in first] == ["keys", "up"]
    assert "nothing is signed" not in house.log(node)
    assert first[0].what["trusts"] == {"centre": house.centre.signer.public_key()}
    verified = worker(house, node, "audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "entries, whole" in verified.stdout
    shown = worker(house, node, "audit", "show", "--run", run[:8])
    assert [line.split()[3] for line in shown.stdout.splitlines()] == kinds


def test_a_refusal_and_a_cancel(house: Rig, node: str) -> None:
    submission = house.send(node, "/bin/true", network=True)
    assert house.result(submission).state is State.REJECTED
    assert entry(house, node, "refused", run=str(submission.run)).what["code"] == "network-refused"
    submission = house.send(node, "/bin/sleep", "60")
    house.reach(submission, State.RUNNING)
    house.centre.cancel(submission.execution, "no longer wanted")
    assert house.result(submission).state is State.CANCELLED
    asked = entry(house, node, "cancel", run=str(submission.run)).what
    assert (asked["why"], asked["key_id"]) == ("no longer wanted", "centre")
    kinds = [read(text).kind for _, text in house.centre.records.audit.lines() if str(submission.execution) in text]
    assert kinds == ["submitted", "cancelled"]


def an_order(house: Rig, node: str, **changes: object) -> TaskOrder:
    submission = house.prepare(node, "/bin/true")
    return house.centre.order(submission.run, 1).model_copy(update=changes)


def strangers(house: Rig, node: str, tmp_path: Path) -> dict[str, tuple[bytes, str, str]]:
    """What must not be obeyed: body, queue, and the code of its refusal."""
    order, ours, cmd, ctl = an_order(house, node), house.centre.signer, command_queue(node), control_queue(node)
    make_key(tmp_path / "other.key")
    other = Signer.load("centre", tmp_path / "other.key")
    nodes_own = Signer.of_node(node, house.federation.home / f"{node}.key")
    inquiry = Inquiry(request=uuid4(), node=node, issued=now(), deadline=now() + timedelta(minutes=1), about="plan", orders=(order,))
    return {
        "unsigned": (pack(order, Signer()), cmd, "unsigned"),
        "by a key of that name": (pack(order, other), cmd, "signature"),
        "by the node itself": (pack(order, nodes_own), cmd, "signature"),
        "for another node": (pack(an_order(house, node).model_copy(update={"node": "site-x"}), ours), cmd, "message"),
        "an inquiry as an order": (pack(inquiry, ours), cmd, "message"),
        "an order as a request": (pack(order, ours), ctl, "message"),
        "an inquiry of another": (pack(inquiry.model_copy(update={"node": "site-x"}), ours), ctl, "wrong-audience"),
        "an inquiry from the future": (pack(inquiry.model_copy(update={"issued": now() + timedelta(minutes=20)}), ours), ctl, "clock"),
    }


@pytest.mark.parametrize(
    "what",
    ["unsigned", "by a key of that name", "by the node itself", "for another node", "an inquiry as an order", "an order as a request",
     "an inquiry of another", "an inquiry from the future"],
)  # fmt: skip
def test_what_is_not_for_this_node_from_its_centre(house: Rig, node: str, tmp_path: Path, what: str) -> None:
    body, queue, code = strangers(house, node, tmp_path)[what]
    assert refused(house, node, body, queue).what["code"] == code


def test_an_order_from_the_future_is_refused_loudly(house: Rig, node: str) -> None:
    order = an_order(house, node, issued=now() + timedelta(minutes=20))
    house.centre.broker.publish(pack(order, house.centre.signer), key=command_queue(node), message_id=order.message_id)

    def ended() -> Reason | None:
        return house.centre.attempt(order.run, 1).reason

    reason = eventually("it is rejected", ended)
    assert reason is not None
    assert (house.centre.attempt(order.run, 1).state, reason.code) == (State.REJECTED, "clock")
    assert reason.message.startswith("the order was issued 19 min 5") or "20 min 0 s from now" in reason.message

    def told() -> bool:
        return any("clock or the centre's is wrong" in problem for problem in presence(house.centre.records)[0].problems)

    eventually("the heartbeats tell of it", told)
    assert house.result(house.send(node, "/bin/true")).state is State.SUCCEEDED
    eventually("until the clocks agree", lambda: not told())


def test_a_pause_that_is_sent_again_changes_nothing(house: Rig, node: str) -> None:
    sent: list[bytes] = []
    publish = house.centre.broker.publish

    def watch(body: bytes, **where: object) -> None:
        sent.append(body)
        publish(body, **where)  # type: ignore[arg-type]

    def intake(action: str) -> bool:
        return asyncio.run(ask(house.centre, (node,), "intake", action=action, seconds=SOON))[node].accepting

    house.centre.broker.publish = watch  # type: ignore[method-assign]
    try:
        assert intake("pause") is False
        pause = sent[0]
        assert intake("resume") is True
    finally:
        house.centre.broker.publish = publish  # type: ignore[method-assign]
    before = house.log(node).count("came again, and nothing is done again")
    publish(pause, key=control_queue(node), message_id="again")
    eventually("it is noticed", lambda: house.log(node).count("came again, and nothing is done again") > before)
    assert house.result(house.send(node, "/bin/true")).state is State.SUCCEEDED
    assert [line.what["action"] for line in log(house, node) if line.kind == "inquiry"] == ["pause", "resume"]


def test_the_commands_of_both_sides(house: Rig, node: str, tmp_path: Path) -> None:
    """The centre checks a log that the site hands over, and finds one that the site has written anew."""
    house.result(house.send(node, "/bin/true"))
    entry(house, node, "ended")
    heard = eventually("the centre heard of it", lambda: list(known_heads(house.centre.records, node)))
    eventually("the log is longer", lambda: len(log(house, node)) >= max(head.number for _, head in heard))
    export = tmp_path / "site.jsonl"
    assert worker(house, node, "audit", "export", str(export)).returncode == 0
    checked = fem(house, "audit", "verify", "--node", node, str(export))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "whole" in checked.stdout
    lines = export.read_text().splitlines()
    forged = tmp_path / "forged.jsonl"
    forged.write_text("\n".join([*lines[:1], lines[1].replace("up", "UP"), *lines[2:]]) + "\n")
    checked = fem(house, "audit", "verify", "--node", node, str(forged))
    assert (checked.returncode, "forged.jsonl:2: the line was changed" in checked.stdout) == (3, True)
    forged.write_text("\n".join(lines[: heard[0][1].number - 1]) + "\n")
    checked = fem(house, "audit", "verify", "--node", node, str(forged), "--json")
    assert any("the end is missing: the centre" in finding for finding in json.loads(checked.stdout)["findings"])
    own = fem(house, "audit", "verify")
    assert (own.returncode, "entries, whole" in own.stdout) == (0, True), own.stdout + own.stderr
    assert "submitted" in fem(house, "audit", "show", "--kind", "submitted").stdout
    assert len(fem(house, "audit", "export", "--after", "2").stdout.splitlines()) > 2
    assert "see" not in fem(house, "nodes", "keys", node).stderr


def restart_relay(house: Rig) -> None:
    """As an operator does who has changed the centre's key."""
    assert house.centre._relay is not None
    house.centre._relay.stop()
    house.centre._relay = None
    house.centre.ensure_relay()


def test_keys_change_at_both_ends(house: Rig, node: str) -> None:
    """The centre's, then the node's; runs succeed all the while, and the old keys are refused at the end."""
    rotated = fem(house, "keys", "--rotate")
    assert rotated.returncode == 0, rotated.stderr
    new = house.federation.home / "centre-2.key"
    old, fresh = house.centre.signer, Signer.load("centre-2", new)
    settings = house.federation.settings_file(node)
    text = settings.read_text()
    site = worker(house, node, "keys", "--new")
    assert site.returncode == 0, site.stderr
    own = Signer.of_node(node, house.federation.home / f"{node}-2.key")
    assert fem(house, "nodes", "add-key", node, own.public_key()).returncode == 0
    settings.write_text(
        text.replace(f"{node}.key", f"{node}-2.key").replace(
            '["keys"."trusted"]', f'["keys"."trusted"]\n"centre-2" = "{fresh.public_key()}"'
        )
    )
    house.stop(node)
    house.start(node)
    assert house.result(house.send(node, "/bin/true")).state is State.SUCCEEDED
    house.centre.signer = fresh
    restart_relay(house)
    assert house.result(house.send(node, "/bin/true")).state is State.SUCCEEDED
    assert fem(house, "nodes", "revoke-key", node, Signer.of_node(node, house.federation.home / f"{node}.key").key_id).returncode == 0
    settings.write_text(settings.read_text() + '\n[keys.revoked]\ncentre = "replaced"\n')
    house.stop(node)
    house.start(node)
    assert house.result(house.send(node, "/bin/true")).state is State.SUCCEEDED
    message: Message = an_order(house, node)
    assert refused(house, node, pack(message, old), command_queue(node)).what["code"] == "key-revoked"
    assert [line.what.get("revoked") for line in log(house, node) if line.kind == "keys"] == [None, None, {"centre": "replaced"}]
    verified = worker(house, node, "audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
