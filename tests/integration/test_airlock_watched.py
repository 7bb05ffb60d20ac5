"""No byte of what is not released reaches the broker or the store: a secret that only the site has is looked for in all that goes there.

Every byte that the worker sends to RabbitMQ and MinIO is recorded on its way, and all objects of the store are read.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import Manifest, State, unpack
from fdn_worker.release.desk import login
from federation.centre import Submission
from federation.inquiry import ask
from storage.keys import attempt_key
from tests.conftest import Services
from tests.support.proxy import Proxy
from tests.support.rig import Rig
from tests.support.services import real_rig
from tests.support.waiting import SOON, eventually

SECRET = f"secret{secrets.token_hex(16)}"
#: The secret in a log line, in a table, in a file's name, and at the end of a file that goes up in parts.
TASK = (
    's=$(cat "$DATA_PATH/cohort/secret"); echo "line $s"; echo "a,$s" > table.csv; echo x > "name-$s"; '
    'head -c 6000000 /dev/zero > big; echo "$s" >> big'
)
#: And in the name of what is refused.
REFUSED = 'ln -s /etc/hostname "link-$(cat "$DATA_PATH/cohort/secret")"; exit 0'


def forms(secret: str) -> list[bytes]:
    """The secret as it is, in hexadecimal, and in base64 wherever it begins."""
    raw = secret.encode()
    return [raw, raw.hex().encode(), *(base64.b64encode(b"." * shift + raw)[4:-4] for shift in range(3))]


@dataclass(frozen=True)
class Watched:
    rig: Rig
    broker: Proxy
    store: Proxy
    #: By which of them files go.
    way: str

    @property
    def node(self) -> str:
        return self.rig.federation.nodes[0]

    def send(self, services: Services, script: str = TASK, outputs: tuple[str, ...] = ("**",)) -> Submission:
        return self.rig.send(self.node, "/bin/sh", "-c", script, image=services.images["busybox"], datasets=("cohort",), outputs=outputs)

    def held(self, services: Services) -> Submission:
        submission = self.send(services)
        self.rig.reach(submission, State.AWAITING_RELEASE)
        return submission

    def say(self, submission: Submission, *words: str) -> None:
        done = self.rig.command(self.node, "release", str(submission.run), *words)
        assert done.returncode == 0, done.stderr

    def seen(self) -> list[str]:
        """Where the secret was seen."""
        store, places = self.rig.centre.store, {"broker": self.broker, "store": self.store}
        found = [name for name, proxy in places.items() for record in list(proxy.recorded) if any(form in record for form in forms(SECRET))]
        for info in store.list(""):
            held = info.key.encode() + b"".join(store.get(info.key))
            found += [info.key for form in forms(SECRET) if form in held]
        return sorted(set(found))

    def wait_for_heartbeats(self) -> None:
        """Two more come: the worker has said whatever it says by itself."""
        for _ in range(2):
            last = self.last_seen()
            eventually("a heartbeat", lambda last=last: self.last_seen() != last)

    def last_seen(self) -> object:
        row = self.rig.centre.records.node(self.node)
        return row and row.last_seen


@pytest.fixture(scope="module", params=["store", "broker"])
def watched(request: pytest.FixtureRequest, services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Files go to the store by signed URLs, or over the broker."""
    name, home = f"airlock-{time.time_ns():x}", tmp_path_factory.mktemp("airlock")
    (home / "data/cohort").mkdir(parents=True)
    (home / "data/cohort/secret").write_text(SECRET)
    broker, store = urlsplit(services.amqp_url), urlsplit(services.s3_url.replace("s3+", ""))
    with Proxy(broker.hostname or "", broker.port or 5672) as to_broker, Proxy(store.hostname or "", store.port or 80) as to_store:
        to_broker.recording = to_store.recording = True
        options = {
            "broker": {"url": f"amqp://{broker.username}:{broker.password}@127.0.0.1:{to_broker.port}/{name}"}, "grace": 1.0,
            "transfer": {"by": request.param, "part_size": 5 * 1024**2}, "logs": "after-release", "release": {"default": "person"},
        }  # fmt: skip
        settings = {"store_site_url": f"http://127.0.0.1:{to_store.port}"}
        datasets = {name: {"cohort": home / "data/cohort"}}
        with real_rig(services, home, (name,), name, datasets=datasets, options=options, settings=settings) as made:
            made.start(name)
            yield Watched(made, to_broker, to_store, request.param)


def test_nothing_leaves_before_a_person_has_spoken_nor_after_a_denial(watched: Watched, services: Services) -> None:
    rig, submission = watched.rig, watched.held(services)
    assert SECRET.encode() in (rig.folder(submission) / "sandbox/table.csv").read_bytes(), "it is there to be seen"
    watched.wait_for_heartbeats()
    for about in ("health", "images"):
        assert asyncio.run(ask(rig.centre, (watched.node,), about, seconds=SOON)), "the node answers"
    assert rig.centre.attempt(submission.run, 1).state is State.AWAITING_RELEASE
    assert watched.seen() == []
    # A restarted worker does not hurry anything out.
    rig.kill(watched.node)
    rig.start(watched.node)
    watched.wait_for_heartbeats()
    assert watched.seen() == []
    watched.say(submission, "--deny", "--why", "not today")
    result = rig.result(submission)
    assert result.reason is not None
    assert (result.state, result.reason.code, result.reason.fault) == (State.FAILED, "release-denied", Fault.POLICY)
    rig.check_told_once(submission)
    rig.check_clean(watched.node)
    watched.wait_for_heartbeats()
    assert watched.seen() == []
    assert any(b"not today" in record for record in watched.broker.recorded), "the broker is watched"


def test_a_cancel_and_a_refusal_let_nothing_out(watched: Watched, services: Services) -> None:
    rig, submission = watched.rig, watched.held(services)
    rig.centre.cancel(submission.execution, "a test")
    assert rig.result(submission).state is State.CANCELLED
    refused = watched.send(services, REFUSED)
    result = rig.result(refused)
    assert result.reason is not None
    assert (result.state, result.reason.code) == (State.FAILED, "output-refused")
    rig.check_clean(watched.node)
    assert watched.seen() == []


def test_what_is_released_is_seen(watched: Watched, services: Services) -> None:
    """The last of the three: from here on the secret is out, and the watch is shown to see it."""
    rig, submission = watched.rig, watched.held(services)
    assert watched.seen() == []
    watched.say(submission, "--file", "outputs/table.csv", "--file", "outputs/big")
    result = rig.result(submission)
    assert result.state is State.SUCCEEDED, result.explain()
    place = (submission.execution, submission.task, submission.node, 1)
    assert watched.seen() == sorted([watched.way, *(attempt_key(*place, f"outputs/{name}") for name in ("big", "table.csv"))])
    signed, key = unpack(
        b"".join(rig.centre.store.get(attempt_key(*place, "manifest.json"))), rig.centre.records.keys.ring(of=watched.node)
    )
    assert isinstance(signed, Manifest)
    assert signed.release is not None
    assert key.startswith(watched.node), "it is the site's own word"
    assert (signed.release.verdict, signed.release.person, signed.release.withheld) == ("partly", login(), 2)
    assert SECRET not in signed.model_dump_json()
    rig.check_clean(watched.node)
