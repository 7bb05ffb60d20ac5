"""Parts of a worker's answers that need no broker: the certificate's end, images that an engine is slow to name."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fdn_worker.errors import LauncherUnavailable
from fdn_worker.inquiries import certificate_expires
from fdn_worker.inventory import MOST_NAMES, Inventory
from fdn_worker.protocol import ImageHere
from tests.support.waiting import SOON
from tests.unit.helpers import settings


def test_when_the_certificate_ends(tmp_path: Path) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site-a")])
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=9)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = builder.not_valid_before(ends - timedelta(days=99)).not_valid_after(ends).sign(key, hashes.SHA256())
    (tmp_path / "client.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "broken.pem").write_text("no certificate")
    found = {}
    for file in ("client", "broken", "none"):
        url = f"amqps://h/?cacertfile=x&certfile={tmp_path}/{file}.pem&keyfile=y"
        found[file] = certificate_expires(settings(tmp_path, broker={"url": url}, keys={"private": "x"}))
    assert found == {"client": ends, "broken": None, "none": None}
    assert certificate_expires(settings(tmp_path)) is None


class Store:
    """Images that are named only once `go` is set."""

    def __init__(self, count: int) -> None:
        self.count, self.go, self.asked = count, threading.Event(), threading.Event()
        self.fails = False

    def version(self) -> str:
        return "1"

    def images(self) -> list[ImageHere]:
        self.asked.set()
        assert self.go.wait(SOON)
        if self.fails:
            raise LauncherUnavailable("away")
        return [ImageHere(name=f"image:{number:03}") for number in range(self.count)]

    def look(self, image: str | None, digest: str | None) -> str | None: ...
    def pull(self, image: str) -> None: ...
    def drop(self, image: str) -> None: ...


def looked(inventory: Inventory) -> None:
    """Wait for the look that is under way."""
    with inventory._looking:
        return


def test_no_heartbeat_waits_for_an_engine() -> None:
    store = Store(MOST_NAMES + 1)
    inventory = Inventory(lambda: [store, object()])  # type: ignore[list-item]
    assert inventory.known() == ()
    assert store.asked.wait(SOON)
    assert inventory.known() == ()
    store.go.set()
    looked(inventory)
    assert len(inventory.known()) == MOST_NAMES
    assert inventory.known()[0] == "image:000"


def test_an_engine_that_went_away_leaves_what_was_known() -> None:
    store = Store(1)
    store.go.set()
    inventory = Inventory(lambda: [store])  # type: ignore[list-item]
    inventory.known()
    looked(inventory)
    store.fails, inventory._seen = True, -1e9
    inventory.known()
    looked(inventory)
    assert inventory.known() == ("image:000",)
