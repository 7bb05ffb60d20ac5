"""The rights of a site's user as expressions, and what a management interface that misbehaves is told as. The rest needs the real one."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from fdn_worker.errors import BrokerUnavailable, SettingsError
from fdn_worker.protocol import names
from fdn_worker.protocol.names import ID_PATTERN
from federation.management import Management, permissions
from federation.settings import CentreSettings

ids = st.from_regex(ID_PATTERN.removesuffix("$") + r"\Z")
#: All that bears a node's name at the broker.
NAMED: list[Callable[[str], str]] = [
    names.command_queue, names.control_queue, names.down_queue, names.up_queue, names.dead_letter_queue, names.event_exchange
]  # fmt: skip
CENTRES = [names.INBOX, names.BEATS, names.DEAD_INBOX, names.EXECUTIONS, "", "amq.default", "amq.topic"]


def matches(node: str, right: str, name: str) -> bool:
    """As RabbitMQ asks: a search, not a match of the whole."""
    return re.search(permissions(node)[right], name) is not None


@given(ids, ids)
def test_no_two_sites_reach_each_other(one: str, other: str) -> None:
    assume(one != other)
    for name in NAMED:
        for right in ("configure", "write", "read"):
            assert not matches(one, right, name(other))


@given(ids, st.text(st.characters(codec="ascii"), min_size=1, max_size=5))
def test_nor_by_a_name_that_is_one_of_theirs_and_more(node: str, more: str) -> None:
    assume(more != "\n")  # `$` stands before a last newline, too; no id has one
    for name in NAMED:
        for right in ("configure", "write", "read"):
            assert not matches(node, right, name(node) + more)
            assert not matches(node, right, more + name(node))


@given(ids)
def test_a_site_reaches_its_own_and_nothing_of_the_centres(node: str) -> None:
    reads = [name(node) for name in NAMED if matches(node, "read", name(node))]
    writes = [name(node) for name in NAMED if matches(node, "write", name(node))]
    assert reads == [names.command_queue(node), names.control_queue(node), names.down_queue(node)]
    assert writes == [names.event_exchange(node)]
    assert [name for name in CENTRES if matches(node, "read", name) or matches(node, "write", name)] == []


def test_a_bad_id_gets_no_rights() -> None:
    with pytest.raises(names.NameRefused):
        permissions(".*")


def test_the_page_names_tests_that_there_are() -> None:
    """What docs/reference/broker-permissions.md claims is claimed by a test."""
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs/reference/broker-permissions.md").read_text()
    there = {
        name for path in (root / "tests").rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 20
    assert named - there == set()
    for right, value in permissions("site-a").items():
        shown = value.replace("site\\-a", "NODE").replace("|", "\\|")
        assert f"| {right} | `{shown}`" in page


# The client


def test_without_a_setting_users_are_nobodys_business_here(tmp_path: Path) -> None:
    assert Management.of(CentreSettings(home=tmp_path)) is None


@pytest.mark.parametrize("url", ["amqp://h", "http://", "http://u:s3cret@h:port", "http://u:s3cret@h/?verify=no", "x"])
def test_an_address_that_is_wrong(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="broker_management_url") as caught:
        Management.of(CentreSettings(home=tmp_path, broker_management_url=SecretStr(url)))
    assert "s3cret" not in str(caught.value)


class Misbehaving(BaseHTTPRequestHandler):
    status = 500

    def do_GET(self) -> None:
        self.send_response(type(self).status)
        self.send_header("Location", "http://elsewhere.invalid/")
        self.end_headers()
        self.wfile.write(b"said so")

    do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Misbehaving) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://admin:s3cret@127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (500, BrokerUnavailable, "answers 500 to GET http://127.0.0.1:[0-9]+/api/users/site-a: said so"),
        (302, BrokerUnavailable, "answers 302"),
        (401, SettingsError, "refuses user 'admin'"),
    ],
)
def test_answers_that_are_none(server: str, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[Exception], says: str) -> None:
    monkeypatch.setattr(Misbehaving, "status", status)
    with pytest.raises(kind, match=says) as caught:
        Management(server).admit("site-a")
    assert "s3cret" not in str(caught.value)


def test_nobody_there() -> None:
    with pytest.raises(BrokerUnavailable, match=r"http://127.0.0.1:1 cannot be reached.*Connection refused") as caught:
        Management("http://admin:s3cret@127.0.0.1:1").expel("site-a")
    assert "s3cret" not in str(caught.value)
