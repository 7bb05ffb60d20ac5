"""Tokens of an OpenID Connect issuer, against a real one on this machine: good ones, and each way in which one is not."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import FastAPI

from fdn_worker.errors import SettingsError
from federation.centre import Centre
from federation.gateway import oidc
from federation.gateway.settings import GatewaySettings
from tests.unit.gateway import a_gateway, client_of, services_of

AUDIENCE = "fem"


class TheIssuer:
    """Discovery and keys over HTTP. `keys` are kid -> private key; `asked` counts the questions for keys."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.asked, self.away = 0, False
        self.calls_itself: str | None = None
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if issuer.away:
                    self.send_error(503)
                    return
                if self.path == "/.well-known/openid-configuration":
                    body = {"issuer": issuer.calls_itself or issuer.url, "jwks_uri": f"{issuer.url}/keys"}
                else:
                    issuer.asked += 1
                    body = {"keys": [issuer.public(kid) for kid in issuer.keys]}
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def public(self, kid: str) -> dict[str, Any]:
        key = self.keys[kid].public_key()
        algorithm: Any = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPublicKey) else jwt.algorithms.ECAlgorithm
        return json.loads(algorithm.to_jwk(key)) | {"kid": kid, "use": "sig"}

    def claims(self, **changes: Any) -> dict[str, Any]:
        moment = int(time.time())
        good = {
            "iss": self.url, "aud": AUDIENCE, "sub": "dora", "iat": moment, "exp": moment + 300,
            "groups": ["fem-operators"], "projects": ["liver"],
        }  # fmt: skip
        return {name: value for name, value in (good | changes).items() if value is not None}

    def token(self, kid: str = "k1", algorithm: str = "RS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
        return jwt.encode(self.claims(**changes), self.keys[kid], algorithm, headers={"kid": kid} | (headers or {}))


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def issuer(key: rsa.RSAPrivateKey) -> Iterator[TheIssuer]:
    issuer = TheIssuer()
    issuer.keys["k1"] = key
    yield issuer
    issuer.server.shutdown()
    issuer.server.server_close()


@pytest.fixture
def app(centre: Centre, issuer: TheIssuer) -> FastAPI:
    roles = {"fem-operators": "operator", "fem-researchers": "researcher", "fem-admins": "administrator"}
    return a_gateway(centre, oidc_issuer=issuer.url, oidc_audience=AUDIENCE, oidc_roles=roles)


async def me(app: FastAPI, token: str) -> tuple[int, Any]:
    async with client_of(app) as client:
        answer = await client.get("/api/v2/me", headers={"Authorization": f"Bearer {token}"})
        return answer.status_code, answer.json()


async def test_a_good_token_gives_name_role_and_projects(app: FastAPI, issuer: TheIssuer) -> None:
    assert await me(app, issuer.token()) == (200, {"name": "dora", "role": "operator", "projects": ["liver"]})
    _, told = await me(app, issuer.token(groups="other fem-researchers", projects="a b"))
    assert told == {"name": "dora", "role": "researcher", "projects": ["a", "b"]}
    assert (await me(app, issuer.token(groups=["fem-researchers", "fem-admins"])))[1]["role"] == "administrator"
    assert (await me(app, issuer.token(aud=["others", AUDIENCE], projects=None)))[0] == 200
    assert issuer.asked == 1, "keys are kept"


async def test_a_claim_may_be_nested(centre: Centre, issuer: TheIssuer) -> None:
    app = a_gateway(
        centre, oidc_issuer=issuer.url, oidc_audience=AUDIENCE, oidc_roles={"res": "researcher"}, oidc_role_claim="realm_access.roles",
        oidc_user_claim="preferred_username",
    )  # fmt: skip
    assert (await me(app, issuer.token(preferred_username="d.ora", realm_access={"roles": ["res"]})))[1]["name"] == "d.ora"
    assert (await me(app, issuer.token(preferred_username="d.ora", realm_access="res")))[0] == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "somebody-else"}, {"aud": None}, {"aud": []}, {"iss": "http://127.0.0.1:1"}, {"iss": None}, {"exp": None}, {"exp": "soon"},
        {"exp": timedelta(hours=-1)}, {"nbf": timedelta(hours=1)}, {"sub": None}, {"sub": ""}, {"sub": "x" * 201}, {"sub": "a\nb"},
        {"sub": "anna"},
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_not_for_us_over_or_without_a_name_is_refused(app: FastAPI, issuer: TheIssuer, changes: dict[str, Any]) -> None:
    changes = {
        claim: int(time.time() + value.total_seconds()) if isinstance(value, timedelta) else value for claim, value in changes.items()
    }
    status, told = await me(app, issuer.token(**changes))
    assert (status, told["detail"]) == (401, "not signed in, or no longer")


async def test_clocks_may_differ_by_a_minute(app: FastAPI, issuer: TheIssuer) -> None:
    moment = int(time.time())
    assert (await me(app, issuer.token(exp=moment - 20)))[0] == 200
    assert (await me(app, issuer.token(iat=moment + 30, nbf=moment + 30)))[0] == 200
    assert (await me(app, issuer.token(exp=moment - 90)))[0] == 401


async def test_who_has_no_role_is_told_so(app: FastAPI, issuer: TheIssuer) -> None:
    status, told = await me(app, issuer.token(groups=["others"]))
    assert (status, told["code"]) == (403, "not-allowed")


async def test_a_token_without_signature_or_with_one_by_a_public_key_is_refused(app: FastAPI, issuer: TheIssuer) -> None:
    assert (await me(app, issuer.token()))[0] == 200
    unsigned = jwt.encode(issuer.claims(), None, "none", headers={"kid": "k1"})
    pem = issuer.keys["k1"].public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head = _part({"alg": "HS256", "kid": "k1", "typ": "JWT"})
    body = _part(issuer.claims())
    # PyJWT itself refuses to make one such; an attacker has other libraries.
    by_public_key = f"{head}.{body}." + _text(
        jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(f"{head}.{body}".encode(), pem)
    )
    for forged in (unsigned, by_public_key, issuer.token()[:-6] + "AAAAAA", f"{_part({'alg': 'RS256'})}.{body}.", "a.b.c"):
        assert (await me(app, forged))[0] == 401


def _part(what: dict[str, Any]) -> str:
    return _text(json.dumps(what).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def test_another_key_under_a_known_name_or_of_another_kind_is_refused(app: FastAPI, issuer: TheIssuer) -> None:
    own = issuer.keys["k1"]
    assert (await me(app, issuer.token()))[0] == 200
    issuer.keys["k1"] = rsa.generate_private_key(65537, 2048)
    assert (await me(app, issuer.token()))[0] == 401
    issuer.keys["k1"] = ec.generate_private_key(ec.SECP256R1())
    assert (await me(app, issuer.token(algorithm="ES256")))[0] == 401
    issuer.keys["k1"] = own


async def test_a_rotated_key_is_fetched_and_strangers_cannot_have_it_fetched_at_will(app: FastAPI, issuer: TheIssuer) -> None:
    known: Any = services_of(app).gate.tokens._issuer
    assert (await me(app, issuer.token()))[0] == 200
    issuer.keys = {"k2": ec.generate_private_key(ec.SECP256R1())}
    known._asked = float("-inf")  # a minute later
    assert (await me(app, issuer.token("k2", "ES256")))[0] == 200
    assert issuer.asked == 2
    for number in range(5):
        assert (await me(app, issuer.token("k2", "ES256", headers={"kid": f"made-up-{number}"})))[0] == 401
    assert issuer.asked == 2
    # The key that went is gone here, too.
    issuer.keys["k1"] = rsa.generate_private_key(65537, 2048)
    assert (await me(app, issuer.token("k1")))[0] == 401


async def test_while_the_issuer_is_away_its_last_keys_count_for_a_day(app: FastAPI, issuer: TheIssuer) -> None:
    known: Any = services_of(app).gate.tokens._issuer
    issuer.away = True
    status, told = await me(app, issuer.token())
    assert (status, told["code"]) == (503, "issuer-unavailable")
    issuer.away, known._asked = False, float("-inf")
    assert (await me(app, issuer.token()))[0] == 200
    issuer.away = True
    known._got, known._asked = time.monotonic() - oidc.FRESH - 1, float("-inf")
    assert (await me(app, issuer.token()))[0] == 200
    known._got, known._asked = time.monotonic() - oidc.STALE - 1, float("-inf")
    assert (await me(app, issuer.token()))[0] == 503


async def test_an_issuer_that_calls_itself_otherwise_gives_no_keys(app: FastAPI, issuer: TheIssuer) -> None:
    issuer.calls_itself = "https://elsewhere"
    assert (await me(app, issuer.token()))[0] == 503


async def test_an_issuers_token_can_be_revoked_here(app: FastAPI, issuer: TheIssuer) -> None:
    first, second = issuer.token(), issuer.token(iat=int(time.time()) - 5)
    async with client_of(app) as client:
        answer = await client.post("/api/v2/token/revoke", data={"token": first}, headers={"Authorization": f"Bearer {second}"})
    assert answer.status_code == 204
    assert ((await me(app, first))[0], (await me(app, second))[0]) == (401, 200)


UNSAFE: list[dict[str, Any]] = [
    {"oidc_issuer": "https://a"}, {"oidc_audience": "a"}, {"oidc_issuer": "http://a", "oidc_audience": "a"}, {"cors_origins": ["*"]},
]  # fmt: skip


@pytest.mark.parametrize("fields", UNSAFE, ids=str)
def test_settings_that_would_be_unsafe_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        GatewaySettings(**fields)
