"""The worker on RabbitMQ, MinIO and Docker: what only these can show."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import Signer, State
from fdn_worker.protocol.envelope import make_key, payload_of
from fdn_worker.protocol.names import command_queue, control_queue, dead_letter_queue
from federation.centre import Submission
from federation.results import TaskResult
from tests.conftest import Services
from tests.support.rig import Rig, Tap, eventually, name_of
from tests.support.services import real_rig

WAIT = "echo x >> count; echo begun; until [ -e go ]; do sleep 0.02; done; echo ended"


@pytest.fixture(scope="module")
def house(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    name = f"real-{time.time_ns():x}"
    with real_rig(services, tmp_path_factory.mktemp("real"), (name,), name, options={"grace": 1.0}) as made:
        made.start(name)
        yield made


@pytest.fixture
def node(house: Rig) -> str:
    return house.federation.nodes[0]


def end(house: Rig, submission: Submission) -> TaskResult:
    result = house.result(submission)
    house.check_told_once(submission)
    house.check_clean(submission.node)
    return result


def check(result: TaskResult, state: State, code: str, fault: Fault, *words: str) -> None:
    assert result.reason is not None, result.state
    assert (result.state, result.reason.code, result.reason.fault) == (state, code, fault)
    assert "\n" not in result.reason.message
    assert [word for word in words if word not in result.reason.message] == []
    assert result.outputs == ()


def test_a_task_with_input_and_outputs(house: Rig, node: str, services: Services, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("data\n")
    script = 'mkdir -p a/b; tr a-z A-Z < "$INPUT_PATH/in.txt" > a/b/out.txt; echo done'
    submission = house.send(
        node, "/bin/sh", "-c", script, image=services.images["busybox"], inputs=(str(tmp_path / "in.txt"),), outputs=("a/**",)
    )
    result = end(house, submission)
    assert result.state is State.SUCCEEDED, result.explain()
    assert house.output(result, "outputs/a/b/out.txt") == b"DATA\n"
    assert (result.tail, result.report.bytes_in, result.report.exit_code) == (("done",), 5, 0)
    assert result.report.image_digest is not None
    assert "sha256:" in result.report.image_digest


def test_out_of_memory(house: Rig, node: str, services: Services) -> None:
    script = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    submission = house.send(node, "python3", "-c", script, image=services.images["python"], memory=64 * 1024**2)
    check(end(house, submission), State.FAILED, "out-of-memory", Fault.USER, "67,108,864 bytes of memory")


@pytest.mark.parametrize(
    ("image", "digest", "code", "words"),
    [
        ("fem-no-such-image:1", None, "image-missing", ("fem-no-such-image:1", "pull policy is never", "have the site load it")),
        (None, None, "image-missing", ("names no image",)),
        ("busybox", "sha256:" + "0" * 64, "digest-differs", ("sha256:000", "order the one it has")),
    ],
    ids=["absent", "none", "digest"],
)
def test_image(house: Rig, node: str, services: Services, image: str | None, digest: str | None, code: str, words: tuple[str, ...]) -> None:
    named = services.images.get(image, image) if image else None
    submission = house.send(node, "/bin/true", image=named, image_digest=digest)
    check(end(house, submission), State.FAILED, code, Fault.USER, *words)


def test_a_container_that_is_removed_from_outside_is_lost(house: Rig, node: str, services: Services) -> None:
    submission = house.send(node, "/bin/sh", "-c", WAIT, image=services.images["busybox"])
    house.line(submission, "begun")
    docker.APIClient(base_url=services.docker_host).remove_container(name_of(submission), force=True)
    check(end(house, submission), State.LOST, "vanished", Fault.INFRASTRUCTURE, name_of(submission))


def test_a_symlink_to_the_host(house: Rig, node: str, services: Services) -> None:
    submission = house.send(node, "/bin/ln", "-s", "/etc/shadow", "stolen", image=services.images["busybox"], outputs=("stolen",))
    check(end(house, submission), State.FAILED, "output-refused", Fault.USER, "'stolen'")


def test_cancel_of_a_container_that_ignores_term(house: Rig, node: str, services: Services) -> None:
    script = "trap '' TERM; (trap '' TERM; while :; do sleep 0.1; done) & echo begun; while :; do sleep 0.1; done"
    submission = house.send(node, "/bin/sh", "-c", script, image=services.images["busybox"])
    house.line(submission, "begun")
    house.centre.cancel(submission.execution, "a test")
    assert end(house, submission).state is State.CANCELLED


def test_timeout(house: Rig, node: str, services: Services) -> None:
    submission = house.send(node, "/bin/sleep", "600", image=services.images["busybox"], timeout=0.5)
    check(end(house, submission), State.FAILED, "timeout", Fault.USER)


def test_sigterm_leaves_the_container_running(house: Rig, node: str, services: Services) -> None:
    submission = house.send(node, "/bin/sh", "-c", WAIT, image=services.images["busybox"], outputs=("count",))
    house.line(submission, "begun")
    assert house.stop(node) == 0
    api = docker.APIClient(base_url=services.docker_host)
    before = api.inspect_container(name_of(submission))
    assert before["State"]["Running"]
    house.start(node)
    assert api.inspect_container(name_of(submission))["State"]["StartedAt"] == before["State"]["StartedAt"]
    (house.folder(submission) / "sandbox/go").touch()
    result = end(house, submission)
    assert house.output(result, "outputs/count") == b"x\n"


def test_what_is_not_signed_by_the_centre_is_refused(house: Rig, node: str, services: Services, tmp_path: Path) -> None:
    """Fault 22. Whoever may publish to the queue still needs the centre's key."""
    make_key(tmp_path / "stranger.key")
    good = house.prepare(node, "/bin/true", image=services.images["busybox"])
    body = house.centre.attempt(good.run, 1).order_body
    payload = payload_of(body)
    envelope = json.loads(body)
    bad = [
        Signer().seal(payload),
        Signer.load("centre", tmp_path / "stranger.key").seal(payload),
        Signer.load("stranger", tmp_path / "stranger.key").seal(payload),
        json.dumps(envelope | {"payload": envelope["payload"].replace("/bin/true", "/bin/trap")}).encode(),
        json.dumps(envelope | {"signature": base64.b64encode(b"\0" * 64).decode()}).encode(),
        json.dumps(envelope | {"algorithm": "none"}).encode(),
        b"not an envelope",
    ]
    for body in bad:
        for queue in (command_queue(node), control_queue(node)):
            house.centre.broker.publish(body, key=queue, message_id="of-a-test")

    def refused() -> bool:
        depth = house.centre.broker.depth(dead_letter_queue(node))
        return depth is not None and depth.messages == 2 * len(bad)

    eventually("all are dead letters", refused)
    assert house.history(good) == []
    subscription = house.centre.broker.consume(dead_letter_queue(node), lambda delivery: delivery.ack())
    eventually("they are taken away", lambda: not house.left(node))
    subscription.cancel()
    house.centre.dispatch(good)
    assert end(house, good).state is State.SUCCEEDED


def test_an_order_that_comes_twice(house: Rig, node: str, services: Services) -> None:
    submission = house.send(node, "/bin/sh", "-c", "echo x >> count", image=services.images["busybox"], outputs=("count",))
    assert end(house, submission).state is State.SUCCEEDED
    tap = Tap(house.centre, node)
    house.centre.broker.publish(house.centre.attempt(submission.run, 1).order_body, key=command_queue(node), message_id="again")
    eventually("its state is sent again", lambda: tap.states(submission))
    assert tap.states(submission) == [State.SUCCEEDED]
    assert house.output(end(house, submission), "outputs/count") == b"x\n"
