"""Places of a test's own on the real services: a virtual host, a bucket, a federation on both with Docker."""

from __future__ import annotations

import json
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker

from federation.local import LocalFederation
from storage.objects import open_store
from tests.conftest import Services
from tests.support.rig import Rig, rig
from tests.support.waiting import SOON


def manage(services: Services, method: str, path: str, body: Any = None) -> Any:
    """What RabbitMQ's management interface answers, None for nothing."""
    address = urlsplit(services.amqp_management_url)
    login = b64encode(f"{address.username}:{address.password}".encode()).decode()
    request = urllib.request.Request(
        f"http://{address.hostname}:{address.port}/api/{path}", method=method, data=json.dumps(body or {}).encode(),
        headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=SOON) as answer:
        text = answer.read()
    return json.loads(text) if text else None


@contextmanager
def virtual_host(services: Services, name: str) -> Iterator[str]:
    """The address of a virtual host of the test's own: the centre's inbox has one name in each."""
    manage(services, "PUT", f"vhosts/{name}")
    manage(services, "PUT", f"permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    try:
        yield services.amqp_url.rstrip("/") + f"/{name}"
    finally:
        manage(services, "DELETE", f"vhosts/{name}")


@contextmanager
def real_rig(services: Services, home: Path, nodes: tuple[str, ...], name: str, **fields: Any) -> Iterator[Rig]:
    """RabbitMQ and MinIO, with Docker unless `launcher` says otherwise; `name` is one that no other test uses.

    `settings` among `fields` are the centre's.
    """
    settings: Mapping[str, Any] = fields.pop("settings", {})
    docker = {"launcher": "docker", "launcher_options": {"docker_host": services.docker_host, "pull_policy": "never"}}
    with virtual_host(services, name) as broker:
        store_url = f"{services.s3_url}/{name}"
        federation = LocalFederation(
            home, nodes, broker_url=broker, store_url=store_url, **(fields if "launcher" in fields else docker | fields)
        )
        try:
            with rig(federation, **settings) as made:
                yield made
        finally:
            store = open_store(store_url)
            store.delete([found.key for found in store.list("")])
            store.close()


def serving_rig(services: Services, home: Path, nodes: tuple[str, ...], name: str, **fields: Any) -> AbstractContextManager[Rig]:
    """The same with tasks that reach each other, `options` among `fields` naming the ports: at the address of Docker's own bridge."""
    client = docker.DockerClient(services.docker_host)
    gateway = client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    client.close()
    options = {"docker_host": services.docker_host, "pull_policy": "never", "network": "bridge"}
    site = fields.pop("options") | {"address": gateway, "allow_network": True}
    return real_rig(services, home, nodes, name, options=site, launcher="docker", launcher_options=options, **fields)
