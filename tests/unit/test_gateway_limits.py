"""What a client may cost, and what it is told when a part is down; slow clients against the real server."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from fdn_worker.errors import BrokerUnavailable, FdnError, StoreUnavailable, SystemFault
from federation.centre import Centre
from federation.execution import NodeOffline
from federation.gateway import health
from federation.gateway.errors import NotAllowed, NotFound, NotSignedIn, TooLarge, TooMany
from federation.gateway.ledger import Ledger
from federation.gateway.problems import problem_of, status_of
from federation.gateway.serving import listening, server
from federation.gateway.settings import GatewaySettings
from federation.plan import PlanRefused
from federation.request import BadRequest
from storage.database import RecordsUnavailable
from storage.records import RecordsRefused
from tests.unit.gateway import a_gateway, client_of, services_of

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


# Bodies


async def test_a_body_that_is_announced_too_large_is_refused_unread(centre: Centre) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield bytes(2**20)

    async with client_of(a_gateway(centre)) as client:
        answer = await client.post("/api/v2/token", content=body(), headers=FORM | {"Content-Length": str(100 * 2**20)})
    assert (answer.status_code, answer.json()["code"], answer.headers["Connection"]) == (413, "too-large", "close")
    assert read == 0


async def test_one_that_grows_too_large_is_refused_as_it_grows(centre: Centre) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"a" * 2**18

    async with client_of(a_gateway(centre)) as client:
        answer = await client.post("/api/v2/token", content=body(), headers=FORM)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
    assert read == 5, "1 MiB is the limit"


# Rate


async def test_one_caller_is_limited_and_others_are_not(centre: Centre) -> None:
    async with client_of(app := a_gateway(centre, requests_a_minute=4), "anna") as anna, client_of(app, "ada") as ada:
        # Two minutes' worth, should one begin meanwhile.
        answers = [await anna.get("/api/v2/me") for _ in range(9)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refused[0].headers["Retry-After"] == "60"
        assert (await ada.get("/api/v2/me")).status_code == 200


async def test_strangers_are_limited_by_address(centre: Centre) -> None:
    async with client_of(a_gateway(centre, requests_a_minute=4)) as client:
        assert 429 in [(await client.get("/api/v2/me", headers={"Authorization": "Bearer x"})).status_code for _ in range(9)]


def test_gateways_agree_on_counts_within_a_second_and_begin_anew_each_minute(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    minute = 100
    monkeypatch.setattr("federation.gateway.ledger._minute", lambda: minute)
    here, there = Ledger(centre.records), Ledger(centre.records)
    assert not any(here.over("a", 5) for _ in range(3))
    assert not any(there.over("a", 5) for _ in range(3))
    here.flush(gathered=False)
    there.flush(gathered=False)
    assert there.over("a", 5)
    assert not there.over("b", 5)
    assert here.over_at_once("a", 6)
    minute = 101
    assert not there.over("a", 5)
    centre.records.gateway.sweep(minute, centre.records.nodes()[0].enrolled)
    assert centre.records.gateway.count({"a": 1}, 100) == {"a": 1}


def test_what_could_not_be_written_is_kept(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(centre.records)
    ledger.over("a", 5)

    def down(*_: object) -> None:
        raise RecordsUnavailable("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr("storage.gateway.GatewayRecords.count", down)
        with pytest.raises(RecordsUnavailable):
            ledger.flush(gathered=True)
    ledger.flush(gathered=True)
    assert ledger.over_at_once("a", 1)


# Slow clients, against the real server


@contextmanager
def served(app: FastAPI, settings: GatewaySettings) -> Iterator[tuple[str, int]]:
    found = listening(settings)
    running = server(app, settings)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [found]}, daemon=True)
    thread.start()
    try:
        yield found.getsockname()[:2]
    finally:
        running.should_exit = True
        thread.join(30)
        found.close()


def test_answers_do_not_wait_for_the_clients_word() -> None:
    with listening(GatewaySettings(port=0)) as found, socket.create_connection(found.getsockname()):
        accepted, _ = found.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_client_that_stops_reading_is_let_go(centre: Centre) -> None:
    app = a_gateway(centre, patience=1, port=0)
    ended = threading.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(2**16)

    class Watched(StreamingResponse):
        async def __call__(self, *way: Any) -> None:
            try:
                await super().__call__(*way)
            finally:
                ended.set()

    @app.get("/endless")
    async def _() -> Watched:
        return Watched(endless())

    with served(app, services_of(app).settings) as where, socket.create_connection(where) as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert ended.wait(60)


def test_a_client_that_stops_sending_is_let_go(centre: Centre) -> None:
    app = a_gateway(centre, patience=1, port=0)
    with served(app, services_of(app).settings) as where, socket.create_connection(where, timeout=60) as client:
        client.sendall(
            b"POST /api/v2/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\n\r\ngrant"
        )
        answer = b""
        while more := client.recv(1000):
            answer += more
    assert answer.startswith(b"HTTP/1.1 408")


def test_one_that_never_ends_its_head_is_let_go(centre: Centre) -> None:
    app = a_gateway(centre, patience=1, port=0)
    with served(app, services_of(app).settings) as where, socket.create_connection(where, timeout=60) as client:
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += client.recv(1000)
        # The second request of the connection; each line that comes is no reason to go on waiting.
        client.sendall(b"GET /health/live HTTP/1.1\r\n")
        client.settimeout(0.2)
        assert any(_over(client) for _ in range(300))


def _over(client: socket.socket) -> bool:
    try:
        client.sendall(b"X: y\r\n")
        return client.recv(1000) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_head_without_end_is_cut_off(centre: Centre) -> None:
    app = a_gateway(centre, port=0)
    with served(app, services_of(app).settings) as where, socket.create_connection(where, timeout=60) as client:
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000)
        assert client.recv(1000).startswith(b"HTTP/1.1 4")


def test_only_a_trusted_proxy_tells_whose_request_it_is(centre: Centre) -> None:
    for trusted, told in (((), "127.0.0.1"), (("127.0.0.1",), "192.0.2.7")):
        app = a_gateway(centre, port=0, trusted_proxies=trusted)
        with served(app, services_of(app).settings) as (host, port):
            httpx.get(f"http://{host}:{port}/api/v2/me", headers={"X-Forwarded-For": "192.0.2.7", "Authorization": "Bearer x"})
        *_, last = centre.records.audit.of_kind("requests", 1)
        assert last.what["told"] == [["", "identify", told, "refused", 1]]


# Headers


async def test_every_answer_has_the_headers_that_keep_a_browser_safe(centre: Centre) -> None:
    app = a_gateway(centre, public_url="https://fem.example")
    async with client_of(app, "anna") as client:
        for answer in (await client.get("/api/v2/me"), await client.get("/nothing"), await client.post("/api/v2/token")):
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert (await client.get("/api/v2/me")).headers["Cache-Control"] == "private, no-store"
    async with client_of(a_gateway(centre)) as client:
        assert "Strict-Transport-Security" not in (await client.get("/health/live")).headers


async def test_only_dashboards_that_are_named_read_from_elsewhere(centre: Centre) -> None:
    app = a_gateway(centre, cors_origins=["https://dashboard.example"], body_limit=10)
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with client_of(app) as client:
        for origin, allowed in (("https://dashboard.example", "https://dashboard.example"), ("https://evil.example", None)):
            preflight = await client.options("/api/v2/token", headers={"Origin": origin} | asked)
            limited = await client.post("/api/v2/token", content=b"a" * 11, headers={"Origin": origin})
            assert [one.headers.get("Access-Control-Allow-Origin") for one in (preflight, limited)] == [allowed, allowed]


# Errors

STATUS: list[tuple[FdnError, int]] = [
    (NotSignedIn(), 401), (NotAllowed("a"), 403), (NotFound(), 404), (TooLarge("a"), 413), (TooMany("a", 1), 429),
    (BadRequest("a"), 400), (BadRequest("a", code="unknown-tool"), 404), (RecordsRefused("a", code="idempotency-conflict"), 409),
    (RecordsRefused("a", code="unknown-execution"), 404), (PlanRefused("a"), 422), (NodeOffline("a"), 409),
    (BrokerUnavailable("a"), 503), (StoreUnavailable("a"), 503), (RecordsUnavailable("a"), 503), (SystemFault("a", code="vanished"), 503),
    (FdnError("a"), 500),
]  # fmt: skip


@pytest.mark.parametrize(("error", "status"), STATUS, ids=lambda value: type(value).__name__)
def test_each_error_has_its_status(error: FdnError, status: int) -> None:
    assert status_of(error) == status
    assert problem_of(error).status == status


PARTS: dict[str, Callable[[Centre], tuple[Any, str, FdnError]]] = {
    "broker": lambda centre: (centre.broker, "depth", BrokerUnavailable("amqp://inside:5671: refused")),
    "store": lambda centre: (centre.store, "stat", StoreUnavailable("https://inside: refused")),
    "records": lambda centre: (centre.records.audit, "head", RecordsUnavailable("records at inside: refused")),
}


@pytest.mark.parametrize("part", PARTS)
async def test_ready_names_what_is_down_and_recovers(centre: Centre, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(health, "FRESH", 0.0)
    whose, what, error = PARTS[part](centre)

    def down(*_: object) -> None:
        raise error

    whole = getattr(whose, what)
    broken = True
    monkeypatch.setattr(whose, what, lambda *words: down() if broken else whole(*words))
    async with client_of(a_gateway(centre)) as client:
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()) == (503, {"status": "down"} | {name: "down" if name == part else "ok" for name in PARTS})
        assert (await client.get("/health/live")).status_code == 200
        broken = False
        assert (await client.get("/health/ready")).json() == {"status": "ok", "broker": "ok", "store": "ok", "records": "ok"}


async def test_a_part_that_does_not_answer_is_down(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE", 0.05)
    hang = threading.Event()
    monkeypatch.setattr(centre.broker, "depth", lambda _: hang.wait(30))
    async with client_of(a_gateway(centre)) as client:
        assert (await client.get("/health/ready")).json()["broker"] == "down"
    hang.set()


async def test_records_that_are_down_are_503_without_their_address_and_the_log_has_it(
    centre: Centre, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = a_gateway(centre)

    def down(*_: object) -> None:
        raise RecordsUnavailable("records at db.inside: refused")

    async with client_of(app, "anna") as client:
        with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
            broken.setattr("storage.gateway.GatewayRecords.token", down)
            answer = await client.get("/api/v2/me")
        assert answer.status_code == 503
        assert answer.json()["detail"] == "the records cannot be reached"
        assert answer.headers["Retry-After"] == "5"
        assert "db.inside" in caplog.text
        assert (await client.get("/api/v2/me")).status_code == 200


async def test_outside_v2_an_error_has_a_detail_alone(centre: Centre) -> None:
    app = a_gateway(centre)

    @app.get("/elsewhere")
    def _() -> None:
        raise BadRequest("no", remedy="say yes")

    @app.get("/api/v2/unforeseen")
    def _() -> None:
        raise RuntimeError("secret of the house")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://x") as client:
        answer = await client.get("/elsewhere")
        assert (answer.status_code, answer.json()) == (400, {"detail": "no (say yes)"})
        unforeseen = await client.get("/api/v2/unforeseen")
        assert (unforeseen.status_code, unforeseen.json()["code"]) == (500, "internal")
        assert "secret" not in unforeseen.text
