"""Signing in at the gateway: passwords, tokens and their end, over HTTP; and what strangers are told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from fdn_worker.protocol import now
from federation.centre import Centre
from federation.gateway import passwords, tokens
from federation.gateway.application import application
from federation.gateway.settings import GatewaySettings
from federation.gateway.signing import COOKIE
from tests.unit.gateway import PASSWORD, Remembering, a_gateway, client_of, services_of, token_of


@pytest.fixture
def app(centre: Centre) -> FastAPI:
    return a_gateway(centre)


async def sign_in(client: httpx.AsyncClient, name: str = "anna", password: str = PASSWORD) -> httpx.Response:
    return await client.post("/api/v2/token", data={"grant_type": "password", "username": name, "password": password})


async def turn_in(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post("/api/v2/token", data={"grant_type": "refresh_token", "refresh_token": token})


async def me(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.get("/api/v2/me", headers={"Authorization": f"Bearer {token}"})


async def test_a_password_gives_a_token_that_says_who_one_is(app: FastAPI) -> None:
    async with client_of(app) as client:
        granted = (await sign_in(client)).json()
        assert granted["token_type"] == "bearer"
        assert granted["expires_in"] == 15 * 60
        assert (await me(client, granted["access_token"])).json() == {"name": "anna", "role": "researcher", "projects": ["heart"]}


async def test_unknown_mistaken_and_shut_out_are_told_alike_after_the_same_work(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    work: list[str] = []
    verify = passwords._hasher.verify

    def watched(kept: str, password: str) -> bool:
        work.append(kept[:30])
        return bool(verify(kept, password))

    monkeypatch.setattr(passwords, "_hasher", type("Watched", (), {"verify": staticmethod(watched), "hash": passwords._hasher.hash})())
    services_of(app).centre.records.gateway.set_user("olaf", disabled=True, by="test")
    async with client_of(app) as client:
        tries = [("nobody", PASSWORD), ("anna", "wrong"), ("olaf", PASSWORD), ("anna", "x" * 900), ("a\0nna", PASSWORD)]
        answers = [await sign_in(client, *tried) for tried in tries]
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
    # The same algorithm with the same parameters.
    assert len(work) == 5
    assert len({kept.rsplit("$", 1)[0] for kept in work}) == 1


async def test_a_refresh_token_is_good_once_and_a_second_turn_ends_the_family(app: FastAPI) -> None:
    async with client_of(app) as client:
        first = (await sign_in(client)).json()
        second = (await turn_in(client, first["refresh_token"])).json()
        assert (await me(client, second["access_token"])).status_code == 200
        # Somebody had a copy.
        assert (await turn_in(client, first["refresh_token"])).status_code == 401
        assert (await me(client, second["access_token"])).status_code == 401
        assert (await turn_in(client, second["refresh_token"])).status_code == 401
        assert (await sign_in(client)).status_code == 200


async def test_a_refresh_token_does_not_ask_and_an_access_token_is_not_turned_in(app: FastAPI) -> None:
    async with client_of(app) as client:
        granted = (await sign_in(client)).json()
        assert (await me(client, granted["refresh_token"])).status_code == 401
        assert (await turn_in(client, granted["access_token"])).status_code == 401


async def test_tokens_are_over_in_time(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(app) as client:
        granted = (await sign_in(client)).json()
        monkeypatch.setattr(tokens, "now", lambda: now() + timedelta(minutes=16))
        assert (await me(client, granted["access_token"])).status_code == 401
        assert (await turn_in(client, granted["refresh_token"])).status_code == 200
        monkeypatch.setattr(tokens, "now", lambda: now() + timedelta(days=31))
        assert (await turn_in(client, granted["refresh_token"])).status_code == 401


async def test_what_one_gateway_revokes_another_refuses_at_once(centre: Centre, app: FastAPI) -> None:
    other = application(Centre.open(centre.settings), Remembering(), GatewaySettings())
    async with client_of(app) as here, client_of(other) as there:
        granted = (await sign_in(here)).json()
        header = {"Authorization": f"Bearer {granted['access_token']}"}
        assert (await me(there, granted["access_token"])).status_code == 200
        assert (await there.post("/api/v2/token/revoke", data={"token": granted["refresh_token"]}, headers=header)).status_code == 204
        assert (await me(here, granted["access_token"])).status_code == 401
    services_of(other).centre.close()


async def test_nobody_ends_anothers_token(app: FastAPI) -> None:
    annas = token_of(app, "anna")
    async with client_of(app, "ada") as client:
        assert (await client.post("/api/v2/token/revoke", data={"token": annas})).status_code == 204
        assert (await client.post("/api/v2/token/revoke", data={"token": "nonsense"})).status_code == 204
        assert (await me(client, annas)).status_code == 200


CHANGES: dict[str, tuple[dict[str, Any], int]] = {
    "role": ({"role": "auditor"}, 200), "projects": ({"projects": []}, 200), "password": ({"password": "hash"}, 401), "disabled": ({"disabled": True}, 401),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_of_a_user_counts_from_the_next_request_on(app: FastAPI, change: str) -> None:
    changed, status = CHANGES[change]
    async with client_of(app, "anna") as client:
        assert (await client.get("/api/v2/me")).json()["role"] == "researcher"
        services_of(app).centre.records.gateway.set_user("anna", **changed, by="test")
        after = await client.get("/api/v2/me")
    assert after.status_code == status
    if status == 200:
        assert (after.json()["role"], after.json()["projects"]) != ("researcher", ["heart"])


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer nonsense", "Bearer fem_access_", "Basic YW5uYTpw", "Bearer " + "x" * 9000, "Bearer a.b.c"]
)
async def test_no_good_token_is_401_in_the_same_words(app: FastAPI, header: str) -> None:
    async with client_of(app) as client:
        answer = await client.get("/api/v2/me", headers={"Authorization": header})
    assert (answer.status_code, answer.headers["WWW-Authenticate"], answer.json()["code"]) == (401, "Bearer", "not-signed-in")
    assert answer.json()["detail"] == "not signed in, or no longer"


async def test_a_browsers_cookie_reads_and_does_not_change(app: FastAPI) -> None:
    cookie = services_of(app).gate.session("anna", PASSWORD, "here")
    async with client_of(app) as client:
        client.cookies.set(COOKIE, cookie)
        assert (await client.get("/api/v2/me")).json()["name"] == "anna"
        assert (await client.post("/api/v2/token/revoke", data={"token": "x"})).status_code == 401


async def test_tries_to_sign_in_are_limited_by_name_and_by_address(centre: Centre) -> None:
    app = a_gateway(centre, sign_ins_a_minute=3)
    async with client_of(app) as client:
        # Of one name, whatever minute begins meanwhile.
        answers = [await sign_in(client, "anna", "wrong") for _ in range(8)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert refused[0].headers["Retry-After"] == "60"
    gate = services_of(app).gate
    assert [gate.ledger.over_at_once("sign-in of bert", 3) for _ in range(5)][-1]


async def test_no_token_is_kept_or_logged_as_it_is(centre: Centre, app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(app) as client:
        granted = (await sign_in(client)).json()
        await me(client, granted["access_token"])
    services_of(app).gate.ledger.close()
    kept = centre.settings.home.joinpath("records.db").read_bytes() + centre.settings.home.joinpath("records.db-wal").read_bytes()
    for secret in (granted["access_token"], granted["refresh_token"], PASSWORD):
        assert secret.encode() not in kept
        assert secret not in caplog.text
