"""The floor of everything with containers: the worker's own container, hardened alike, run through the Docker SDK alone."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import docker

from benchmarks.house import Services
from fdn_worker.launchers import LaunchSpec
from fdn_worker.launchers.docker_config import DockerOptions, container_config

NOTHING = ("/bin/true",)


class Bare:
    """`run` takes one container from create to remove by the SDK's high-level client, as its documentation shows it."""

    def __init__(self, services: Services, folder: Path) -> None:
        self._client = docker.DockerClient(base_url=services.docker_host, max_pool_size=16)
        self._options = DockerOptions(docker_host=services.docker_host, pull_policy="never")
        self._image = str(self._client.images.get(services.images["busybox"]).id)
        self._sandbox = folder / f"bare-{uuid.uuid4().hex[:8]}"
        self._sandbox.mkdir()
        os.chown(self._sandbox, *self._options.ids)

    def run(self) -> None:
        name = f"bare-{uuid.uuid4()}"
        spec = LaunchSpec(name=name, node="bare", argv=NOTHING, image=self._image, environment={}, sandbox=self._sandbox)
        # `containers.create` would take the same things apart as keywords, and put them together again.
        created = self._client.api.create_container_from_config(container_config(spec, self._options, None), name)  # type: ignore[no-untyped-call]
        container = self._client.containers.get(created["Id"])
        try:
            container.start()
            container.wait()
            container.logs()
        finally:
            container.remove(force=True)

    def close(self) -> None:
        self._client.close()
