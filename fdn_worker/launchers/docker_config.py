"""The container that an attempt gets: somebody else's code on private data, so all that can be taken away is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from fdn_worker.errors import PolicyRefused
from fdn_worker.launchers import Bind, LaunchSpec, PullPolicy, no_network
from fdn_worker.launchers.options import Options
from fdn_worker.launchers.places import command_of
from fdn_worker.protocol import Mount, TaskOrder
from fdn_worker.settings import KeepTo

DATA, SANDBOX, INPUTS, SOURCE, SECRETS = "/data", "/sandbox", "/inputs", "/source", "/run/secrets"
LABEL_NODE, LABEL_NAME = "fdn.node", "fdn.name"
#: What no mount may lie at or below: the container's own views of the kernel.
_KERNEL = ("/proc", "/sys", "/dev")
NetworkName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Size = Annotated[str, StringConstraints(pattern=r"^[1-9]\d*[kmg]?$")]


class DockerOptions(Options):
    """The table [launchers.docker]."""

    #: `unix://PATH` or `tcp://HOST:PORT`; empty means Docker's default socket.
    docker_host: str = ""
    pull_policy: PullPolicy = "if-not-present"
    #: UID or UID:GID that tasks run as. A worker that is not root cannot give sandboxes away: set its own ids then.
    user: Annotated[str, StringConstraints(pattern=r"^\d{1,9}(:\d{1,9})?$")] = "65534:65534"
    #: Docker runs rootless as the worker's own user: tasks have that user's rights on this machine, as root of their containers.
    rootless: bool = False
    #: Docker network for orders that ask for one; "none" grants none.
    network: NetworkName = "none"
    #: That of tasks which are to reach, or be, a server of their own execution and no more; "" is `network`.
    server_network: NetworkName | Literal[""] = ""
    #: That of tasks which are kept to the proxy, an internal one, and the proxy's address as they see it; "none" grants none.
    proxy_network: NetworkName = "none"
    proxy: Annotated[str, StringConstraints(pattern=r"^(http://[^\s/@]+/?)?$")] = ""
    #: Processes and threads of one task.
    pids: Annotated[int, Field(ge=8)] = 512
    #: Size of /tmp, which counts as the task's memory.
    tmp_size: Size = "256m"
    open_files: Annotated[int, Field(ge=64)] = 4096
    #: Docker's own log of a container: size of each file, and how many.
    log_size: Size = "10m"
    log_files: Annotated[int, Field(ge=2)] = 3
    #: Cgroup below which each attempt gets its own, for accounting; empty leaves figures to be estimated.
    cgroup_parent: Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9_-]+)?$")] = "/fdn"
    #: Seconds for one call of Docker.
    timeout: Annotated[float, Field(gt=0)] = 60.0
    #: Seconds that a running attempt waits for a daemon that went away.
    patience: Annotated[float, Field(ge=0)] = 120.0

    @field_validator("user")
    @classmethod
    def _not_root(cls, value: str) -> str:
        if int(value.partition(":")[0]) == 0:
            raise ValueError("tasks never run as root")
        return value

    @field_validator("network", "server_network", "proxy_network")
    @classmethod
    def _a_network(cls, value: str) -> str:
        if value in ("host", "container"):
            raise ValueError("tasks never share the host's or another container's network")
        return value

    @model_validator(mode="after")
    def _reached(self) -> DockerOptions:
        if (self.proxy_network == "none") != (not self.proxy):
            raise ValueError("proxy_network and proxy go together")
        return self

    def network_for(self, keep_to: KeepTo) -> str:
        """The Docker network of tasks that are kept to that; "none" where there is none for it."""
        return {"": self.network, "server": self.server_network or self.network, "proxy": self.proxy_network}[keep_to]

    @property
    def ids(self) -> tuple[int, int]:
        """UID and GID in the container. Of a rootless Docker's users root alone is the worker's own, whom the sandbox belongs to."""
        if self.rootless:
            return 0, 0
        uid, _, gid = self.user.partition(":")
        return int(uid), int(gid or uid)


def refusals(order: TaskOrder) -> Iterator[PolicyRefused]:
    """What of an order no container gets."""
    taken = [SANDBOX, *(f"{DATA}/{name}" for name in order.datasets), *[INPUTS] * bool(order.inputs), *[SOURCE] * bool(order.source)]
    taken += [SECRETS] * bool(order.secrets)
    for mount in order.mounts:
        target = mount.target
        if any(_at_or_below(target, root) for root in _KERNEL):
            yield PolicyRefused(f"nothing may be mounted at {target}", code="mounts-refused", remedy="mount it elsewhere")
        elif not _is_place(mount, order):
            # Below the sandbox there is room to mount in; any other folder there is read-only.
            clash = [other for other in taken if _at_or_below(other, target) or (other != SANDBOX and _at_or_below(target, other))]
            if clash:
                yield PolicyRefused(f"mount {target} is in the way of {clash[0]}", code="mounts-refused", remedy="mount it elsewhere")
            taken.append(target)


def _at_or_below(path: str, root: str) -> bool:
    return f"{path}/".startswith(f"{root}/")


def _is_place(mount: Mount, order: TaskOrder) -> bool:
    """Whether the mount asks for what is there anyway: tools of older catalogues name each folder."""
    if mount.kind == "dataset":
        return mount.source in order.datasets and mount.target == f"{DATA}/{mount.source}"
    return mount.kind == "sandbox" and not mount.source and mount.target == SANDBOX


def container_config(spec: LaunchSpec, options: DockerOptions, cgroup: str | None) -> dict[str, Any]:
    """The body of Docker's create call. Raises PolicyRefused for a network that the node does not grant."""
    if spec.network and options.network_for(spec.keep_to) == "none":
        raise no_network(spec.node)
    command = command_of(spec, data=DATA, sandbox=SANDBOX, inputs=INPUTS, source=SOURCE, secrets=SECRETS)
    return {
        "Image": spec.image,
        # The image's own entrypoint and health check have no say.
        "Entrypoint": [command.argv[0]],
        "Cmd": list(command.argv[1:]),
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "Env": [f"{name}={value}" for name, value in {**command.environment, **_proxy(spec, options)}.items()],
        "User": "{}:{}".format(*options.ids),
        "WorkingDir": SANDBOX,
        "ExposedPorts": {f"{port}/tcp": {} for port in spec.ports},
        "Labels": {LABEL_NODE: spec.node, LABEL_NAME: spec.name},
        "HostConfig": _host_config(spec, options) | ({"CgroupParent": cgroup} if cgroup else {}),
    }


def _proxy(spec: LaunchSpec, options: DockerOptions) -> dict[str, str]:
    """Variables that tell a task of the proxy. What passes it by goes nowhere, so they need not be enforced."""
    if not spec.network or spec.keep_to != "proxy":
        return {}
    return dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), options.proxy)


def _host_config(spec: LaunchSpec, options: DockerOptions) -> dict[str, Any]:
    need, (uid, gid) = spec.resources, options.ids
    return {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "ReadonlyRootfs": True,
        "NetworkMode": options.network_for(spec.keep_to) if spec.network else "none",
        "PortBindings": {f"{port}/tcp": [{"HostIp": spec.bind, "HostPort": str(published)}] for port, published in spec.ports.items()},
        "IpcMode": "private",
        "Init": True,
        "PidsLimit": options.pids,
        "Memory": int(need.memory),
        "MemorySwap": int(need.memory),
        "NanoCpus": int(need.cpus * 1e9),
        # Older runc give it the mode of the image's own /tmp, whatever is said here, so it has to be the task's own.
        "Tmpfs": {"/tmp": f"rw,noexec,nosuid,nodev,mode=1777,uid={uid},gid={gid},size={options.tmp_size}"},
        "Ulimits": [
            {"Name": name, "Soft": most, "Hard": most}
            for name, most in (("nofile", options.open_files), ("core", 0), ("fsize", int(need.disk)))
        ],
        "LogConfig": {"Type": "local", "Config": {"max-size": options.log_size, "max-file": str(options.log_files), "compress": "false"}},
        "Mounts": list(_mounts(spec)),
        "DeviceRequests": [{"Count": need.gpus, "Capabilities": [["gpu"]]}] if need.gpus else [],
    }


def _mounts(spec: LaunchSpec) -> Iterator[dict[str, Any]]:
    places = [Bind(spec.sandbox, SANDBOX, read_only=False), *(Bind(folder, f"{DATA}/{name}") for name, folder in spec.datasets.items())]
    read = ((spec.inputs, INPUTS), (spec.source, SOURCE), (spec.secrets, SECRETS))
    places += [Bind(folder, target) for folder, target in read if folder is not None]
    there = {place.target for place in places}
    # Without NonRecursive a file system that is mounted below a source would come along, and writable.
    options = {"Propagation": "rprivate", "NonRecursive": True}
    for bind in (*places, *(mount for mount in spec.mounts if mount.target not in there)):
        yield {"Type": "bind", "Source": str(bind.source), "Target": bind.target, "ReadOnly": bind.read_only, "BindOptions": options}
