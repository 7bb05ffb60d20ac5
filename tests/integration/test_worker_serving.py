"""Servers at a worker: a port of the site's range, told once it is really open, also across a restart; and all that may go wrong."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import Endpoint, Port, Server, State
from federation.centre import Submission
from federation.local import LocalFederation
from tests.support.ports import free_ports
from tests.support.rig import Rig, Tap, rig

#: Listens on $1 once the file $2 is there, greets one client a time, and ends when $3 is there; well-behaved: TERM ends it with 0.
SERVER = """
import os, signal, socket, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("begun", flush=True)
port, go, stop = int(sys.argv[1]), sys.argv[2], sys.argv[3]
while not os.path.exists(go):
    time.sleep(0.02)
server = socket.create_server(("127.0.0.1", port))
server.settimeout(0.05)
clients = 0
while not os.path.exists(stop):
    try:
        client, _ = server.accept()
    except TimeoutError:
        continue
    clients += 1
    client.sendall(b"client %d" % clients)
    client.close()
"""


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    return free_ports(3)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, ports: tuple[int, int]) -> Iterator[Rig]:
    options = {"address": "localhost", "bind": "127.0.0.1", "ports": f"{ports[0]}-{ports[1]}", "grace": 5.0, "slots": 4}
    with rig(LocalFederation(tmp_path_factory.mktemp("serving"), ("server", "again"), options=options)) as made:
        for node in ("server", "again"):
            made.start(node)
        yield made


def serve(house: Rig, node: str, folder: Path, *ports: Port, **fields: Any) -> Submission:
    command = (sys.executable, "-c", SERVER, "$PORT_8080", str(folder / "go"), str(folder / "stop"))
    submission = house.send(node, *command, ports=ports or (Port(container=8080),), **fields)
    house.line(submission, "begun")
    return submission


def opened(house: Rig, submission: Submission) -> Endpoint:
    (endpoint,) = house.hear(submission, lambda event: bool(event.listening)).listening
    return endpoint


def greeting(endpoint: Endpoint) -> bytes:
    with socket.create_connection((endpoint.host, endpoint.published), 5) as client:
        return client.recv(99)


def finish(house: Rig, submission: Submission, folder: Path) -> None:
    (folder / "stop").touch()
    assert house.result(submission).state is State.SUCCEEDED
    house.check_told_once(submission)
    assert sum(bool(event.listening) for event in house.history(submission)) == 1
    house.check_clean(submission.node)


def test_a_server_is_told_once_it_is_open(house: Rig, ports: tuple[int, int], tmp_path: Path) -> None:
    submission = serve(house, "server", tmp_path)
    assert not any(event.listening for event in house.history(submission))
    (tmp_path / "go").touch()
    endpoint = opened(house, submission)
    assert (endpoint.port, endpoint.host) == (8080, "localhost")
    assert ports[0] <= endpoint.published <= ports[1]
    # The first client is the first: nobody was there before to try the port.
    assert greeting(endpoint) == b"client 1"
    finish(house, submission, tmp_path)


@pytest.mark.parametrize("told", [True, False])
def test_a_restarted_worker_tells_the_same_port_once(house: Rig, tmp_path: Path, told: bool) -> None:
    submission = serve(house, "again", tmp_path)
    before = None
    if told:
        (tmp_path / "go").touch()
        before = opened(house, submission)
    house.kill("again")
    (tmp_path / "go").touch()
    house.start("again")
    endpoint = opened(house, submission)
    assert before in (None, endpoint)
    assert greeting(endpoint) == b"client 1"
    finish(house, submission, tmp_path)


def test_two_servers_have_a_port_each_and_a_fixed_one_is_taken_once(house: Rig, ports: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    first = serve(house, "server", tmp_path, Port(container=8080, host=ports[0] + 1))
    second = serve(house, "server", tmp_path)
    assert opened(house, first).published == ports[0] + 1
    assert opened(house, second).published == ports[0]
    third = house.send("server", "/bin/true", ports=(Port(container=80, host=ports[0] + 1),))
    reason = house.result(third).reason
    assert reason is not None
    assert (reason.code, reason.fault) == ("port-taken", Fault.INFRASTRUCTURE)
    assert reason.message == f"port {ports[0] + 1} of node server is in use (wait, or name none)"
    (tmp_path / "stop").touch()
    for submission in (first, second):
        assert house.result(submission).state is State.SUCCEEDED
    house.check_clean("server")


def test_a_port_that_somebody_else_has_is_not_given(house: Rig, ports: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with socket.create_server(("127.0.0.1", ports[0])):
        submission = serve(house, "server", tmp_path)
        assert opened(house, submission).published == ports[0] + 1
        finish(house, submission, tmp_path)


def test_a_server_that_never_opens_its_port_is_ended(house: Rig, tmp_path: Path) -> None:
    tap = Tap(house.centre, "server")
    submission = serve(house, "server", tmp_path, listen_within=0.3)
    result = house.result(submission)
    assert result.reason is not None
    assert (result.state, result.reason.code, result.reason.fault) == (State.FAILED, "port-not-open", Fault.USER)
    # It was told to end, and did so with 0.
    assert result.report.exit_code == 0
    assert tap.states(submission)[-1] is State.FAILED
    house.check_told_once(submission)
    house.check_clean("server")


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"ports": (Port(container=80, host=80),)}, "ports-refused", "node server does not publish port 80"),
        ({"ports": tuple(Port(container=port) for port in range(1, 5))}, "ports-refused", "publishes 4 ports, node server has 3"),
        ({"servers": (Server(node="again", host="x", ports={1: 2}),)}, "network-refused", "lets no task reach a server elsewhere"),
    ],
)
def test_what_the_site_does_not_publish(house: Rig, fields: dict[str, Any], code: str, words: str) -> None:
    result = house.result(house.send("server", "/bin/true", **fields))
    assert result.reason is not None
    assert (result.state, result.reason.code) == (State.REJECTED, code)
    assert words in result.reason.message
