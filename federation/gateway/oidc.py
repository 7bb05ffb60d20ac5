"""Tokens of an OpenID Connect issuer: who somebody is by its word, and what he may by his groups there.

The issuer is asked for its keys alone, when they are needed: at first, each hour, and for a key that is unknown, though not
more often than once a minute, whatever strangers send. While it is away its last keys count, for a day.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import jwt

from fdn_worker.errors import SystemFault
from federation.gateway.access import Caller, Role
from federation.gateway.errors import NotAllowed, NotSignedIn
from federation.gateway.settings import GatewaySettings, over_tls

log = logging.getLogger(__name__)

#: Signatures by a private key, each with the kind of key that it takes. None that a public key could be taken for the secret of.
ALGORITHMS = {
    "RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
    "ES256": "EC", "ES384": "EC", "ES512": "EC", "EdDSA": "OKP",
}  # fmt: skip
#: Seconds that keys are good, that they are good while the issuer is away, and between two questions for an unknown one.
FRESH, STALE, PAUSE = 3600.0, 24 * 3600.0, 60.0
#: Seconds that the issuer has to answer.
PATIENCE = 5.0
#: Who has several roles there has the first of these.
ORDER = (Role.ADMINISTRATOR, Role.OPERATOR, Role.AUDITOR, Role.RESEARCHER)
#: Characters of a name.
LONGEST = 200


class IssuerUnavailable(SystemFault):
    """The issuer does not give its keys."""

    code = "issuer-unavailable"


class Issuer:
    """Safe from several threads. `caller` blocks where keys have to be fetched."""

    def __init__(self, settings: GatewaySettings, *, pause: float = PAUSE) -> None:
        self._settings, self._pause = settings, pause
        self._lock = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        #: Monotonic moments of the last keys, and of the last question.
        self._got = self._asked = float("-inf")

    def caller(self, token: str, digest: str) -> tuple[Caller, datetime]:
        """Whose token it is, and when it is over. NotSignedIn whatever is wrong with it; NotAllowed for one without a role here."""
        try:
            claims = self._claims(token)
        except jwt.PyJWTError as error:
            log.info("a token was refused: %s", error, extra={"action": "token-refused"})
            raise NotSignedIn from error
        name = _claim(claims, self._settings.oidc_user_claim)
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST or not name.isprintable():
            log.warning("a token of the issuer's has no usable %s", self._settings.oidc_user_claim, extra={"action": "token-refused"})
            raise NotSignedIn
        groups = _words(_claim(claims, self._settings.oidc_role_claim))
        roles = {role for group, role in self._settings.oidc_roles.items() if group in groups}
        if not roles:
            raise NotAllowed("your account has no role in this federation", remedy="ask an administrator to give it one")
        projects = _words(_claim(claims, self._settings.oidc_project_claim))
        until = datetime.fromtimestamp(int(claims["exp"]) + self._settings.oidc_skew, UTC)
        return Caller(name, next(role for role in ORDER if role in roles), frozenset(projects), digest), until

    def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError(f"algorithm {algorithm!r}")
        key = self._key(header.get("kid"))
        if key.key_type != ALGORITHMS[algorithm]:
            raise jwt.InvalidAlgorithmError(f"algorithm {algorithm!r} with a key of kind {key.key_type}")
        claims: dict[str, Any] = jwt.decode(
            token, key.key, algorithms=[algorithm], audience=self._settings.oidc_audience, issuer=self._settings.oidc_issuer,
            leeway=self._settings.oidc_skew, options={"require": ["exp", "iss", "aud"]},
        )  # fmt: skip
        return claims

    def _key(self, kid: object) -> jwt.PyJWK:
        with self._lock:
            moment = time.monotonic()
            if moment - self._got > FRESH or (kid is not None and kid not in self._keys):
                self._refresh(moment)
            if kid is None and len(self._keys) == 1:
                return next(iter(self._keys.values()))
            if not isinstance(kid, str) or kid not in self._keys:
                raise jwt.InvalidKeyError(f"the issuer has no key {kid!r}")
            return self._keys[kid]

    def _refresh(self, moment: float) -> None:
        """Fetch the keys, unless that was done just now. Those that stand are kept while the issuer is away."""
        if moment - self._asked < self._pause:
            if not self._keys:
                raise IssuerUnavailable("the issuer's keys could not be had a moment ago")
            return
        self._asked = moment
        try:
            self._keys, self._got = self._fetched(), moment
        except (httpx.HTTPError, ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
            log.error("issuer %s: %s", self._settings.oidc_issuer, error, extra={"action": "issuer-unavailable"})
            if moment - self._got > STALE:
                self._keys = {}
                raise IssuerUnavailable(f"issuer {self._settings.oidc_issuer} gives no keys: {error}", remedy="see oidc_issuer") from error

    def _fetched(self) -> dict[str, jwt.PyJWK]:
        issuer = self._settings.oidc_issuer
        with httpx.Client(timeout=PATIENCE) as client:
            about = _json(client, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if about["issuer"] != issuer:
                raise ValueError(f"it calls itself {about['issuer']!r}")
            if not over_tls(about["jwks_uri"]):
                raise ValueError(f"its keys are not over TLS: {about['jwks_uri']!r}")
            found = _json(client, about["jwks_uri"])["keys"]
        return {
            str(key.get("kid", "")): jwt.PyJWK(key)
            for key in found
            if key.get("kty") in ALGORITHMS.values() and key.get("use", "sig") == "sig"
        }  # fmt: skip


def _json(client: httpx.Client, address: str) -> Any:
    return client.get(address).raise_for_status().json()


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that name; or, as some issuers nest them, the one at that path with dots."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _words(claim: Any) -> set[str]:
    """A list's, or those of a text with spaces."""
    return (
        set(claim.split())
        if isinstance(claim, str)
        else {one for one in claim if isinstance(one, str)}
        if isinstance(claim, list)
        else set()
    )
