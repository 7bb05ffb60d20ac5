"""DockerLauncher: each attempt is a hardened container of its own, known by its name and labels.

Whoever may speak to the Docker socket is root on the host: so is this worker, in effect.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from fdn_worker.errors import LauncherUnavailable, PolicyRefused, TaskFailed
from fdn_worker.launchers import Exit, LaunchSpec, LogLine
from fdn_worker.launchers.docker_config import LABEL_NAME, LABEL_NODE, DockerOptions, container_config, refusals
from fdn_worker.launchers.open_files import deleted, processes
from fdn_worker.launchers.options import read_options
from fdn_worker.launchers.sockets import connectable, listened
from fdn_worker.protocol import ImageHere, TaskOrder
from fdn_worker.settings import KeepTo

if TYPE_CHECKING:
    from fdn_worker.launchers.docker_engine import ContainerState

log = logging.getLogger(__name__)


class DockerLauncher:
    """Options are those of DockerOptions; a wrong one is a SettingsError."""

    def __init__(self, state: Path | None = None, **options: object) -> None:
        self.options = read_options(DockerOptions, "launchers.docker", options)
        # The SDK costs 0.3 s to import, so only who has a Docker launcher does it.
        from fdn_worker.launchers.docker_accounts import Accounts
        from fdn_worker.launchers.docker_engine import Engine
        from fdn_worker.launchers.docker_pulled import Pulled

        self._engine = Engine(self.options.docker_host, self.options.timeout)
        self._accounts = Accounts(self._engine, self.options.cgroup_parent)
        # All else Docker keeps itself.
        self._pulled = Pulled(state / "pulled" if state else None)

    def prepare(self, image: str | None, digest: str | None) -> str | None:
        from fdn_worker.launchers.docker_images import ensure, to_pull

        pinned = ensure(self._engine, self.options.pull_policy, _named(image), digest, self._pulled.note)
        self._pulled.used(_named(image), to_pull(_named(image), digest))
        return pinned

    def start(self, spec: LaunchSpec) -> None:
        from docker.errors import APIError

        if spec.network and spec.keep_to == "proxy":
            self._engine.check_internal(self.options.proxy_network)
        config = container_config(spec, self.options, self._accounts.parent(spec.name))
        if self.options.rootless:
            self._engine.check_rootless()
        secret = () if spec.secrets is None else (spec.secrets, *spec.secrets.iterdir())
        for folder in {spec.sandbox, *(mount.source for mount in spec.mounts if not mount.read_only), *secret}:
            self._give_away(folder)
        with self._engine.to(f"create {spec.name}") as api:
            try:
                api.create_container_from_config(config, spec.name)  # type: ignore[no-untyped-call]
            except APIError as error:
                if error.status_code == 409:
                    if self._engine.state(spec.name).status != "created":
                        return
                else:
                    raise self._refused(spec, error) from error
        with self._engine.to(f"start {spec.name}") as api:
            try:
                api.start(spec.name)
            except APIError as error:
                self.remove(spec.name)
                raise self._refused(spec, error) from error

    def follow(self, name: str, on_line: Callable[[LogLine], None], after: str = "") -> Exit:
        from fdn_worker.launchers.docker_follow import Follow

        followed = Follow(self._engine, name, on_line, after, self.options.patience)
        followed.reach_daemon()
        with self._accounts.watching(name) as usage:
            state = followed.run()
        # An OOM kill of a child may leave the exit code at 0.
        # A busy engine may note the start of a short container after its end.
        return Exit(state.code, state.out_of_memory, min(state.started, state.finished), state.finished, usage())

    def stop(self, name: str, grace: float) -> None:
        from docker.errors import NotFound

        with self._engine.to(f"stop {name}") as api:
            try:
                api.stop(name, timeout=ceil(grace))
            except NotFound:
                return

    def remove(self, name: str) -> None:
        from docker.errors import APIError

        with self._engine.to(f"remove {name}") as api:
            try:
                api.remove_container(name, v=True, force=True)
            except APIError as error:
                # 404: there is none; 409: it is being removed already.
                if error.status_code not in (404, 409):
                    raise
        self._accounts.close(name)

    def names(self, node: str) -> set[str]:
        with self._engine.to("list containers") as api:
            found = api.containers(all=True, filters={"label": [f"{LABEL_NODE}={node}"]})
        return {container["Labels"][LABEL_NAME] for container in found if LABEL_NAME in container["Labels"]}

    def refusals(self, order: TaskOrder) -> Iterator[PolicyRefused]:
        return refusals(order)

    def gives(self, keep_to: KeepTo) -> bool:
        return self.options.network_for(keep_to) != "none"

    def listening(self, name: str, ports: Mapping[int, int]) -> set[int]:
        # A published port proves nothing: Docker's own proxy takes connections there while nobody listens in the container.
        state = self._engine.state(name)
        found = listened(state.pid, loopback=False) if _sees(state) else None
        if found is None:
            found = {port for port in ports for address in state.addresses if connectable(address, port)}
        return found & set(ports)

    def unlinked(self, name: str, folder: Path) -> int:
        state = self._engine.state(name)
        return deleted(processes(state.id), folder.stat().st_dev) if _sees(state) else 0

    # Images

    def version(self) -> str:
        with self._engine.to("tell its version") as api:
            return f"Docker {api.version()['Version']}"

    def images(self) -> list[ImageHere]:
        from fdn_worker.launchers.docker_images import listed

        return listed(self._engine)

    def look(self, image: str | None, digest: str | None) -> str | None:
        from fdn_worker.launchers.docker_images import look

        return look(self._engine, self.options.pull_policy, _named(image), digest)

    def pull(self, image: str) -> None:
        from fdn_worker.launchers.docker_images import pull

        pull(self._engine, image)
        self._pulled.note(image)

    def collect(self, most: int, keep: Callable[[str], bool]) -> int:
        return self._pulled.collect(self._engine, most, keep)

    def drop(self, image: str) -> None:
        from fdn_worker.launchers.docker_images import drop

        drop(self._engine, image)

    def _give_away(self, folder: Path) -> None:
        """Make a folder the task's."""
        uid, gid = self.options.ids
        if self.options.rootless:
            return  # it is theirs
        try:
            os.chown(folder, uid, gid)
        except PermissionError as error:
            if uid != os.getuid():
                log.warning(
                    "sandbox %s cannot be given to %s: %s; set user in [launchers.docker] to the worker's own ids",
                    folder, self.options.user, error, extra={"action": "sandbox-owner"},
                )  # fmt: skip
        except OSError as error:
            raise LauncherUnavailable(f"sandbox {folder}: {error.strerror}") from error

    def _refused(self, spec: LaunchSpec, error: Exception) -> TaskFailed | PolicyRefused | LauncherUnavailable:
        """What the daemon's refusal to create or start means."""
        from docker.errors import APIError

        from fdn_worker.launchers.docker_engine import reason
        from fdn_worker.launchers.docker_follow import no_command

        assert isinstance(error, APIError)
        why, status = reason(error), error.status_code
        if "device driver" in why:
            return PolicyRefused(f"node {spec.node} has no GPU that Docker can give: {why}", code="gpu-missing")
        if status == 400 and "bind source path" not in why:
            return no_command(spec.argv[0], why) if "exec:" in why else TaskFailed(f"Docker refuses the task: {why}", code="launch-refused")
        return LauncherUnavailable(f"Docker at {self._engine.host} could not start {spec.name}: {why}")


def _sees(state: ContainerState) -> bool:
    """Whether the process of that number is the container's: a worker in a container of its own, or far from Docker, sees others."""
    try:
        return state.pid > 0 and state.id in Path(f"/proc/{state.pid}/cgroup").read_text()
    except OSError:
        return False


def _named(image: str | None) -> str:
    if image is None:
        raise TaskFailed("the order names no image", code="image-missing", remedy="name one, or ask for the launcher process")
    return image
