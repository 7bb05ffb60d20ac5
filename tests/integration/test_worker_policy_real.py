"""A policy at a worker with Docker: what is mounted, which images, and the network that a task is kept to."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from fdn_worker.protocol import Reason, State
from fdn_worker.protocol.image import signed_part
from tests.conftest import Services
from tests.support.policies import KEYS, SIGNERS, put_policy
from tests.support.rig import Rig, eventually
from tests.support.services import real_rig
from tests.unit.test_policy_judge import a_rule

#: What a task reaches: by itself, and by the proxy that it was told of.
REACH = """
import os, socket, sys, urllib.error, urllib.request
try:
    socket.create_connection((sys.argv[1], 3128), 5)
    print("reached")
except OSError:
    print("not reached")
if os.environ.get("HTTPS_PROXY"):
    try:
        urllib.request.urlopen("http://allowed.example/", timeout=10)
    except urllib.error.HTTPError as error:
        print("the proxy says", error.code)
"""
#: Answers as a proxy does that does not know the page.
SERVER = ["python3", "-m", "http.server", "3128"]


class Site:
    """The worker, its policy, and an internal network with something on it that answers as a proxy would."""

    def __init__(self, house: Rig, services: Services) -> None:
        self.house, self.services, self.node = house, services, house.federation.nodes[0]

    def put(self, text: str) -> None:
        put_policy(self.house, self.node, text)

    def run(self, *argv: str, image: str = "busybox", **fields: object) -> tuple[State, list[str], Reason | None]:
        """How it ended, what it printed, and why it failed."""
        sent = self.house.send(self.node, *argv, image=self.services.images[image], user="ada", **fields)
        found = self.house.result(sent)
        return found.state, [line for event in self.house.history(sent) for line in event.lines], found.reason


def listens(container: Any) -> bool:
    return bool(container.exec_run(["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 3128))"])[0] == 0)


@pytest.fixture(scope="module")
def site(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    name, home = f"policy-{time.time_ns():x}", tmp_path_factory.mktemp("policy")
    for dataset in ("census", "births"):
        (home / "data" / dataset).mkdir(parents=True)
        (home / "data" / dataset / dataset).write_text(dataset)
    (home / "policy.toml").write_text("")
    client = docker.DockerClient(services.docker_host)
    network = client.networks.create(name, internal=True)
    proxy = client.containers.run(services.images["python"], SERVER, name=name, network=name, detach=True)
    options = {
        "policy": str(home / "policy.toml"), "grace": 1.0,
        "launchers": {"docker": {"docker_host": services.docker_host, "pull_policy": "never", "network": "bridge", "proxy_network": name,
                                 "proxy": f"http://{name}:3128"}},
    }  # fmt: skip
    datasets = {name: {dataset: home / "data" / dataset for dataset in ("census", "births")}}
    try:
        eventually(
            "the proxy is up",
            lambda: (
                client.containers.get(name).exec_run("python3 -c 'import socket; socket.create_connection((\"localhost\", 3128))'")[0] == 0
            ),
        )
        with real_rig(services, home, (name,), name, datasets=datasets, options=options) as made:
            made.start(name)
            yield Site(made, services)
    finally:
        proxy.remove(force=True)
        network.remove()
        client.close()


def test_the_granted_dataset_alone_is_mounted(site: Site) -> None:
    site.put(a_rule(datasets='["census"]', users='["ada"]'))
    state, lines, _ = site.run("/bin/sh", "-c", "find /data -type f", datasets=("census",))
    assert (state, lines) == (State.SUCCEEDED, ["/data/census/census"])
    state, _, reason = site.run("/bin/true", datasets=("census", "births"))
    assert state is State.REJECTED
    assert reason is not None
    assert "one: dataset 'births' is not granted" in reason.message


def test_images_by_name_and_by_digest(site: Site) -> None:
    client = docker.DockerClient(site.services.docker_host)
    digest = client.images.get(site.services.images["busybox"]).id
    client.close()
    assert digest is not None
    site.put(a_rule(images=f'["{site.services.images["busybox"].partition(":")[0]}"]'))
    assert site.run("/bin/true")[0] is State.SUCCEEDED
    assert site.run("/bin/true", image="python")[0] is State.REJECTED
    site.put(a_rule(digests=f'["{digest}"]'))
    assert site.run("/bin/true", image_digest=digest)[0] is State.SUCCEEDED
    assert site.run("/bin/true")[0] is State.REJECTED
    # A digest that another image is said to have does not get it in.
    state, _, reason = site.run("/bin/true", image="python", image_digest=digest)
    assert state is State.FAILED
    assert reason is not None
    assert reason.code == "digest-differs"


def test_an_image_that_its_author_has_signed(site: Site) -> None:
    client = docker.DockerClient(site.services.docker_host)
    digest = client.images.get(site.services.images["busybox"]).id
    client.close()
    assert digest is not None
    signature = {name: base64.b64encode(key.sign(signed_part(digest))).decode() for name, key in KEYS.items()}
    site.put(f'[signers]\nauthor = "{SIGNERS["author"]}"\n' + a_rule(signed_by='["author"]'))
    assert site.run("/bin/true", image_digest=digest, image_signature=signature["author"])[0] is State.SUCCEEDED
    state, _, reason = site.run("/bin/true", image_digest=digest, image_signature=signature["lab"])
    assert state is State.REJECTED
    assert reason is not None
    assert "the image is not signed by any of its signers" in reason.message


def test_a_task_that_is_kept_to_the_proxy_reaches_nothing_past_it(site: Site) -> None:
    site.put(a_rule(network='"proxy"'))
    outside = docker.DockerClient(site.services.docker_host).containers.run(site.services.images["python"], SERVER, detach=True)
    try:
        eventually("it listens", lambda: listens(outside))
        outside.reload()
        reach = ("python3", "-c", REACH, outside.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])
        assert site.run(*reach, image="python", network=True)[:2] == (State.SUCCEEDED, ["not reached", "the proxy says 404"])
        site.put(a_rule(network='"open"'))
        assert site.run(*reach, image="python", network=True)[:2] == (State.SUCCEEDED, ["reached"])
    finally:
        outside.remove(force=True)
    # Who did not ask for it has no network at all.
    assert site.run("/bin/ls", "/sys/class/net")[1] == ["lo"]
