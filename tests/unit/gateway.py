"""What the gateway's unit tests share: the application with users of each role, and a submitter that only remembers."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx
from fastapi import FastAPI

from federation.centre import Centre
from federation.gateway.access import Role
from federation.gateway.application import application
from federation.gateway.passwords import hashed
from federation.gateway.services import Services
from federation.gateway.settings import GatewaySettings
from federation.gateway.users import api_token
from storage.learning_rows import SessionRow
from storage.records import ExecutionRow

PASSWORD = "correct horse battery"
#: Made once: argon2 is slow by intention.
HASH = hashed(PASSWORD)


@dataclass
class Remembering:
    """A Submitter: (what, execution) of each call."""

    calls: list[tuple[str, str]] = field(default_factory=list)

    def start(self, row: ExecutionRow) -> None:
        self.calls.append(("start", row.id))

    def cancel(self, row: ExecutionRow, why: str) -> None:
        self.calls.append(("cancel", row.id))

    def retry(self, row: ExecutionRow) -> None:
        self.calls.append(("retry", row.id))

    def learn(self, row: SessionRow) -> None:
        self.calls.append(("learn", row.id))

    def page(self, row: ExecutionRow | SessionRow) -> str | None:
        return f"http://prefect/{row.id}"

    def close(self) -> None:
        self.calls.append(("close", ""))


def a_gateway(centre: Centre, **settings: object) -> FastAPI:
    """The application, with the users anna (researcher, of project heart), olaf, aude and ada of the other roles."""
    named = {"anna": Role.RESEARCHER, "olaf": Role.OPERATOR, "aude": Role.AUDITOR, "ada": Role.ADMINISTRATOR}
    for name, role in named.items():
        if centre.records.gateway.user(name) is None:
            centre.records.gateway.add_user(name, role, HASH, ["heart"] if name == "anna" else [], by="test")
    return application(centre, Remembering(), GatewaySettings(**settings))  # type: ignore[arg-type]


def services_of(app: FastAPI) -> Services:
    found = app.state.services
    assert isinstance(found, Services)
    return found


def token_of(app: FastAPI, name: str) -> str:
    """An API token of the user's, made anew."""
    records = services_of(app).centre.records.gateway
    label = f"token {len(records.tokens_of(name, 'api'))}"
    return api_token(records, name, label, None, by="test")


def client_of(app: FastAPI, name: str = "") -> httpx.AsyncClient:
    """A client of the application, signed in as the user if one is named."""
    headers = {"Authorization": f"Bearer {token_of(app, name)}"} if name else {}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway", headers=headers)
