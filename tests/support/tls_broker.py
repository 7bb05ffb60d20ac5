"""A RabbitMQ of the tests' own with the settings that `deployments/compose` ships: TLS, and certificates as the only logins."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from deployments.services import rabbitmq
from deployments.services.place import ROOT, Place
from deployments.services.processes import Process, marked, stop, wait_until
from fdn_worker.certificates import common_name, private_key
from federation.authority import Authority
from federation.management import Management

SHIPPED = ROOT / "deployments/compose/rabbitmq.conf"
REVOKED = ROOT / "deployments/compose/revoked.config"
#: Where the shipped settings have certificates and lists.
TLS_FOLDER = "/etc/rabbitmq/tls"
#: The centre's user, as in compose.
CENTRE = "centre"
#: Of the management interface alone: the broker's own port takes none.
PASSWORD = "for-the-management-interface"


@dataclass(frozen=True)
class TlsBroker:
    """Where it listens, and the authority that it trusts."""

    port: int
    management_url: str
    authority: Authority

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """What the management interface answers, asked by hand."""
        headers = urllib3.make_headers(basic_auth=f"{CENTRE}:{PASSWORD}") | {"Content-Type": "application/json"}
        place = self.management_url.rpartition("@")[2]
        answer = urllib3.request(method, f"http://{place}/api/{path}", json=body, headers=headers, retries=False, timeout=10)
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.data!r}"
        return answer.json() if answer.data else None

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            self.api("GET", "overview")
        except (urllib3.exceptions.HTTPError, AssertionError):
            return False
        return True

    def management(self, virtual_host: str = "/") -> Management:
        return Management(self.management_url, virtual_host)

    def url(self, folder: Path, virtual_host: str = "/", host: str = "localhost") -> str:
        """Its address for whoever has the key and certificate in `folder`."""
        files = f"cacertfile={folder}/ca.pem&certfile={folder}/client.pem&keyfile={folder}/client.key"
        return f"amqps://{host}:{self.port}/{virtual_host.replace('/', '%2F')}?{files}"

    @property
    def centre(self) -> Path:
        return self.authority.folder / "centre"

    def site(self, node: str) -> Path:
        """The folder with key and certificate of a site."""
        return client(self.authority, node)


def client(authority: Authority, node: str, *, days: float = 1) -> Path:
    """A site's key, its request, and the authority's answer, all in the folder that is returned."""
    folder = authority.folder / "sites" / node
    key = private_key(folder / "client.key")
    request = x509.CertificateSigningRequestBuilder().subject_name(common_name(node)).sign(key, hashes.SHA256())
    return authority.sign(request.public_bytes(serialization.Encoding.PEM), node, days=days)


def publish_revoked(authority: Authority) -> None:
    """Put the list of revoked certificates where the broker reads it, as docs/how-to/certificates.md says."""
    folder = authority.folder / "broker/revoked"
    folder.mkdir(exist_ok=True)
    shutil.copy(authority.crl(), folder)
    subprocess.run(["openssl", "rehash", str(folder)], check=True, capture_output=True)


@contextmanager
def running_tls_broker(folder: Path) -> Iterator[TlsBroker]:
    """Started, and ended with all that it started; without RabbitMQ a test is skipped on a laptop and fails in CI."""
    if any(rabbitmq.missing().values()):
        reason = f"{rabbitmq.SCRIPT} is missing (Debian package rabbitmq-server)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    authority = Authority.create(folder / "ca")
    server = authority.server(["localhost"])
    authority.centre(name=CENTRE)
    ours = {"listeners.ssl.default = 5671": "listeners.ssl.1 = 127.0.0.1:{amqp}", TLS_FOLDER: str(server)}
    config = SHIPPED.read_text()
    for theirs, here in ours.items():
        assert theirs in config
        config = config.replace(theirs, here)
    config += "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management}\ndisk_free_limit.absolute = 50MB\ncollect_statistics_interval = 500\n"
    config += f"default_user = {CENTRE}\ndefault_pass = {PASSWORD}\n"
    place = Place(folder / "broker.json", folder / "broker", folder)
    started: list[Process] = []
    try:
        publish_revoked(authority)
        broker = rabbitmq.launch(place, started.append, config, REVOKED.read_text().replace(TLS_FOLDER, str(server)))
        found = TlsBroker(broker.amqp, f"http://{CENTRE}:{PASSWORD}@127.0.0.1:{broker.management}", authority)
        wait_until(found.answers, broker.process, broker.log)
        yield found
    finally:
        stop(started, patience=1.0)
        stop(marked(str(place.json)), patience=0)
