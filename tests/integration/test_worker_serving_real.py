"""A server and its client as containers of a worker on RabbitMQ, and the folders that only Docker can mount."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdn_worker.protocol import Mount, Port, Server, State
from tests.conftest import Services
from tests.support.ports import free_ports
from tests.support.rig import Rig
from tests.support.services import real_rig
from tests.support.waiting import SOON

SERVER = """
import os, socket, time
print("begun", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
server = socket.create_server(("", int(os.environ["PORT_8080"])))
for _ in range(2):
    client, _ = server.accept()
    client.sendall(b"hello")
    client.close()
"""
CLIENT = "import socket, sys; open('out', 'wb').write(socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).recv(99))"


def bridge_address(services: Services) -> str:
    """The host's address on Docker's own bridge, which both the host and the containers reach."""
    command = ["docker", "-H", services.docker_host, "network", "inspect", "bridge"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=SOON).stdout)
    address: str = found[0]["IPAM"]["Config"][0]["Gateway"]
    return address


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "data"
    (folder / "cohort/2024").mkdir(parents=True)
    (folder / "cohort/2024/file").write_text("data\n")
    return folder


@pytest.fixture(scope="module")
def house(services: Services, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    name, (first, last) = f"serve-{time.time_ns():x}", free_ports(3)
    options = {
        "address": bridge_address(services), "ports": f"{first}-{last}", "allow_servers": True, "keep_sandboxes": True, "grace": 1.0,
        "host_paths": [str(data / "cohort")], "launchers": {"docker": {"docker_host": services.docker_host, "pull_policy": "never", "network": "bridge"}},
    }  # fmt: skip
    with real_rig(
        services, tmp_path_factory.mktemp("serve"), (name,), name, datasets={name: {"cohort": data / "cohort"}}, options=options
    ) as made:
        made.start(name)
        yield made


@pytest.fixture
def node(house: Rig) -> str:
    return house.federation.nodes[0]


def test_a_client_reaches_a_server_that_a_restarted_worker_tells_of(house: Rig, node: str, services: Services) -> None:
    image = services.images["python"]
    server = house.send(node, "python3", "-c", SERVER, image=image, ports=(Port(container=8080),), sandbox="server", user="ada")
    house.line(server, "begun")
    house.kill(node)
    house.start(node)
    assert not any(event.listening for event in house.history(server))
    (kept,) = (house.state_dir(node) / "kept").glob("*/server/sandbox")
    (kept / "go").touch()
    (endpoint,) = house.hear(server, lambda event: bool(event.listening)).listening
    at = Server(node=node, host=endpoint.host, ports={endpoint.port: endpoint.published})
    for _ in range(2):
        client = house.send(
            node, "python3", "-c", CLIENT, endpoint.host, str(endpoint.published), image=image, servers=(at,), outputs=("out",)
        )
        result = house.result(client)
        assert result.state is State.SUCCEEDED, result.explain()
        assert house.output(result, "outputs/out") == b"hello"
    assert house.result(server).state is State.SUCCEEDED
    house.check_told_once(server)
    house.check_clean(node)


def test_mounts_of_each_kind(house: Rig, node: str, services: Services, data: Path) -> None:
    mounts = (
        Mount(kind="dataset", source="cohort/2024", target="/app/in"), Mount(kind="host", source=str(data / "cohort/2024"), target="/host"),
        Mount(kind="sandbox", source="results/deep", target="/app/out"),
    )  # fmt: skip
    script = "cat /app/in/file /host/file > /app/out/both; ! touch /app/in/x /host/x"
    submission = house.send(node, "/bin/sh", "-c", script, image=services.images["busybox"], mounts=mounts, outputs=("results/**",))
    result = house.result(submission)
    assert result.state is State.SUCCEEDED, result.explain()
    assert house.output(result, "outputs/results/deep/both") == b"data\ndata\n"
    house.check_clean(node)
