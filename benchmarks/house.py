"""A federation of one node on the real services, with a clock on the relay's inbox; nothing of it is left behind."""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
import time
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.harness import ROOT
from deployments.services.minio import VERSION as MINIO_VERSION
from fdn_worker.brokers import Broker, Delivery, Handler, Subscription, connect
from fdn_worker.protocol import Signer
from fdn_worker.protocol.names import INBOX, command_queue, container_name
from federation.centre import Centre, Submission
from federation.local import LocalFederation
from federation.relay import Relay
from federation.request import TaskRequest
from storage.objects import open_store
from storage.records import Records

#: Seconds for anything that should come soon.
PATIENCE = 120.0
_END = re.compile(rb'\\"state\\": \\"(SUCCEEDED|FAILED|REJECTED|CANCELLED|LOST)\\"')


@dataclass(frozen=True)
class Services:
    """The real RabbitMQ, MinIO and Docker Engine, as `make services` wrote them down."""

    amqp_url: str
    amqp_management_url: str
    s3_url: str
    docker_host: str
    images: dict[str, str]

    @classmethod
    def load(cls) -> Services:
        path = Path(os.environ.get("FEM_SERVICES", ROOT / ".cache/services/services.json"))
        return cls(**json.loads(path.read_text()))


class Inbox:
    """A broker whose inbox is watched: when each run's last event was delivered to the relay.

    The broker delivers it when it confirms it to the node: once a majority of its disks has it.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._ends: dict[str, tuple[float, str]] = {}
        self._news = threading.Condition()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def consume(self, queue: str, handler: Handler, *, prefetch: int = 32) -> Subscription:
        def noted(delivery: Delivery) -> None:
            if ended := _END.search(delivery.body):
                moment = time.perf_counter()
                with self._news:
                    self._ends[delivery.message_id.partition(".")[0]] = (moment, ended[1].decode())
                    self._news.notify_all()
            handler(delivery)

        return self._broker.consume(queue, noted if queue == INBOX else handler, prefetch=prefetch)

    def end_of(self, submission: Submission) -> float:
        """The moment (of `perf_counter`) at which the run's last event came."""
        with self._news:
            if not self._news.wait_for(lambda: str(submission.run) in self._ends, PATIENCE):
                raise TimeoutError(f"no end of run {submission.run} in {PATIENCE:.0f} s")
            moment, state = self._ends.pop(str(submission.run))
        if state != "SUCCEEDED":
            raise RuntimeError(f"run {submission.run} ended {state}")
        return moment


@dataclass(frozen=True)
class House:
    """A federation whose one node runs, and its centre in this process."""

    federation: LocalFederation
    centre: Centre
    inbox: Inbox
    node: str

    @property
    def site(self) -> Path:
        """The worker's state folder."""
        return self.federation.home / "sites" / self.node

    @property
    def worker(self) -> int:
        """The worker's pid."""
        return self.federation.workers[self.node].pid

    def stage(self, *argv: str, **fields: Any) -> Submission:
        """Write a run and its order down; nothing is sent."""
        return self.centre.stage_in(TaskRequest(node=self.node, argv=argv, **fields), uuid.uuid4().hex)

    def send(self, submission: Submission) -> float:
        """Publish the order; the moment at which that began."""
        body = self.centre.attempt(submission.run, submission.attempt).order_body
        began = time.perf_counter()
        self.centre.broker.publish(body, key=command_queue(self.node), message_id=f"{submission.run}.{submission.attempt}")
        return began

    def settled(self, submission: Submission) -> None:
        """Return when the worker has cleared the attempt away, so that it costs nothing of what is measured next."""
        folder = self.site / "runs" / container_name(submission.run, submission.attempt)
        until = time.monotonic() + PATIENCE
        while folder.exists():
            if time.monotonic() > until:
                raise TimeoutError(f"{folder} is still there")
            time.sleep(0.002)


class Trustless(Centre):
    """A centre that takes any word."""

    def relay(self, on_news: Callable[[set[str]], None] | None = None) -> Relay:
        return Relay(self.broker, self.records, self.store, self.signer, unsigned_ok=True, on_news=on_news)


@contextmanager
def house(
    services: Services, *, broker: str = "rabbitmq", store: str = "folder", launcher: str = "docker", relay: str = "process",
    trust: bool = True, **options: Any,
) -> Iterator[House]:  # fmt: skip
    """`options` are the worker's; `relay` as in the centre's settings. Without `trust` nothing is signed, checked or audited."""
    name = f"bench-{uuid.uuid4().hex[:10]}"
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"fem-{name}-")))
        broker_url = stack.enter_context(virtual_host(services, name)) if broker == "rabbitmq" else ""
        store_url = stack.enter_context(_bucket(services, name)) if store == "minio" else ""
        of_docker: Mapping[str, Any] = {"docker_host": services.docker_host, "pull_policy": "never"}
        federation = LocalFederation(
            home, (name,), broker_url=broker_url, store_url=store_url, launcher=launcher,
            launcher_options=of_docker if launcher == "docker" else {}, options=options,
            worker="fdn_worker" if trust else "benchmarks.trustless",
        )  # fmt: skip
        settings = federation.settings().model_copy(update={"relay": relay})
        stack.enter_context(federation)
        inbox = Inbox(connect(settings.broker_url.get_secret_value(), name=name))
        signer = Signer.load(settings.key_id, settings.key) if settings.key and trust else Signer()
        stored, records = open_store(settings.store_url.get_secret_value()), Records.open(settings.records_url.get_secret_value(), signer)
        if not trust:
            records.enrol_node(name, public_key="")
        centre = (Centre if trust else Trustless)(settings, inbox, stored, records, signer)
        stack.callback(centre.close)
        if relay == "process":
            federation.wait_connected(centre)
        yield House(federation, centre, inbox, name)


def published(services: Services, name: str) -> int:
    """Messages that were published in a virtual host so far, as RabbitMQ counts them each 5 s."""
    return int(_manage(services, "GET", f"vhosts/{name}").get("message_stats", {}).get("publish", 0))


@contextmanager
def virtual_host(services: Services, name: str) -> Iterator[str]:
    """A virtual host of its own: the centre's inbox has one name in each."""
    _manage(services, "PUT", f"vhosts/{name}")
    try:
        _manage(services, "PUT", f"permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        yield services.amqp_url.rstrip("/") + f"/{name}"
    finally:
        _manage(services, "DELETE", f"vhosts/{name}")


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables of this process, for a while."""
    before = os.environ.copy()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def versions(services: Services) -> dict[str, str]:
    """Of the services. MinIO does not tell its own: it is the one that `deployments.services` builds."""
    import docker

    engine = docker.DockerClient(base_url=services.docker_host)
    told = {"Docker": str(engine.version()["Version"]), "RabbitMQ": str(_manage(services, "GET", "overview")["rabbitmq_version"])}
    engine.close()
    return told | {"MinIO": MINIO_VERSION.rpartition("-")[2]}


def _manage(services: Services, method: str, path: str, body: Any = None) -> Any:
    address = urlsplit(services.amqp_management_url)
    login = b64encode(f"{address.username}:{address.password}".encode()).decode()
    request = urllib.request.Request(
        f"http://{address.hostname}:{address.port}/api/{path}", method=method, data=json.dumps(body or {}).encode(),
        headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read() or b"null")


@contextmanager
def _bucket(services: Services, name: str) -> Iterator[str]:
    """A bucket that is taken away with all that it then holds."""
    url = f"{services.s3_url}/{name}"
    store = open_store(url)
    try:
        yield url
    finally:
        store.delete([found.key for found in store.list("")])
        store.close()
        client(services).remove_bucket(name)


def client(services: Services) -> Any:
    """A plain client of package minio."""
    from minio import Minio

    parts = urlsplit(services.s3_url)
    return Minio(f"{parts.hostname}:{parts.port}", parts.username, parts.password, secure=parts.scheme == "s3", region="us-east-1")
