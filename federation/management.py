"""The sites' users at RabbitMQ, made through its management interface: each may read its own queues, publish to its own exchange, and no more.

Enrolment alone uses it. Users that it makes bear a tag of ours, and it touches no other.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import urllib3

from fdn_worker.errors import BrokerUnavailable, SettingsError
from fdn_worker.protocol.names import command_queue, control_queue, down_queue, event_exchange
from federation.settings import CentreSettings

#: Marks a user as a site's. RabbitMQ gives it no meaning.
TAG = "fem-site"
#: Of one site: two connections of the worker and two for files over the broker, as many again while the broker still
#: holds lost ones, and `fdn-worker check` beside them.
LIMITS = {"max-connections": 10, "max-channels": 32}
#: Seconds for one request.
PATIENCE = 10.0


def permissions(node: str) -> dict[str, str]:
    """What the node's user may do. Anchored: without ^ and $ site-a would match site-ab."""
    queues = "|".join(re.escape(queue) for queue in (command_queue(node), control_queue(node), down_queue(node)))
    return {"configure": "^$", "write": f"^{re.escape(event_exchange(node))}$", "read": f"^({queues})$"}


class Management:
    """`http[s]://USER:PASSWORD@HOST:PORT`, `?cacertfile=` for an authority of one's own; the user must be an administrator."""

    def __init__(self, url: str, virtual_host: str = "/", *, passwords: bool = False) -> None:
        try:
            parts = urlsplit(url)
            port, options = parts.port, parse_qs(parts.query, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise SettingsError("broker_management_url cannot be read", remedy="use http[s]://USER:PASSWORD@HOST:PORT") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or set(options) - {"cacertfile"}:
            raise SettingsError("broker_management_url is no http[s] address", remedy="use http[s]://USER:PASSWORD@HOST:PORT")
        #: The address without user and password, for messages.
        self.place = f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port else "") + parts.path.rstrip("/")
        self._login = unquote(parts.username or ""), unquote(parts.password or "")
        self._virtual_host, self._passwords = virtual_host, passwords
        headers = urllib3.make_headers(basic_auth=":".join(self._login))
        self._pool = urllib3.PoolManager(headers=headers, retries=False, timeout=PATIENCE, ca_certs=options.get("cacertfile", [None])[0])

    @classmethod
    def of(cls, settings: CentreSettings) -> Management | None:
        """As the settings say; None where the broker's users are somebody else's business."""
        if settings.broker_management_url is None:
            return None
        virtual_host = unquote(urlsplit(settings.broker_url.get_secret_value()).path[1:]) or "/"
        return cls(settings.broker_management_url.get_secret_value(), virtual_host, passwords=settings.site_login == "password")

    def admit(self, node: str) -> str:
        """Make the node's user stand, with its limits and rights. Idempotent.

        Returns its password where one was made just now; "" where its certificate is the login, or it has a password already.
        """
        user = self._own(node)
        if self._call("GET", "vhosts", self._virtual_host) is None:
            # RabbitMQ gives whoever makes a virtual host all rights in it.
            self._call("PUT", "vhosts", self._virtual_host, body={})
        keeps = self._passwords and user.get("password_hash")
        if not keeps:
            self._call("PUT", "users", node, body={"password_hash": "", "tags": TAG})  # no password fits it
        for limit, value in LIMITS.items():
            self._call("PUT", "user-limits", node, limit, body={"value": value})
        self._call("PUT", "permissions", self._virtual_host, node, body=permissions(node))
        if keeps or not self._passwords:
            return ""
        # Last: had anything failed after it, nobody would know it.
        password = secrets.token_urlsafe(32)
        self._call("PUT", "users", node, body={"password": password, "tags": TAG})
        return password

    def expel(self, node: str) -> None:
        """Delete the node's user: that alone drops its live connections at once. Idempotent."""
        if self._own(node):
            self._call("DELETE", "users", node)

    def _own(self, node: str) -> dict[str, Any]:
        """The node's user, empty if there is none; refuses one that is not a site's."""
        user: dict[str, Any] = self._call("GET", "users", node) or {}
        tags = user.get("tags", [])
        if user and TAG not in (tags.split(",") if isinstance(tags, str) else tags):
            raise SettingsError(
                f"user {node!r} at the broker is not a site's: it lacks the tag {TAG}",
                remedy=f"choose another id for the node; or, if it is this site's user: rabbitmqctl set_user_tags {node} {TAG}",
            )
        return user

    def _call(self, method: str, *path: str, body: Any = None) -> Any:
        """The answer, {} when it is empty, None when there is no such thing."""
        address = f"{self.place}/api/" + "/".join(quote(part, safe="") for part in path)
        headers = {**self._pool.headers, "Content-Type": "application/json"}
        try:
            answer = self._pool.request(method, address, body=None if body is None else json.dumps(body), headers=headers, redirect=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise BrokerUnavailable(
                f"RabbitMQ's management interface at {self.place} cannot be reached: {error}", remedy="check broker_management_url"
            ) from error
        if answer.status == 404 and method != "PUT":
            return None
        if answer.status in (401, 403):
            raise SettingsError(
                f"RabbitMQ's management interface at {self.place} refuses user {self._login[0]!r}",
                remedy="check the password in broker_management_url; the user must have the tag administrator",
            )
        if answer.status >= 300:
            said = answer.data.decode(errors="replace")[:300]
            raise BrokerUnavailable(
                f"RabbitMQ's management interface at {self.place} answers {answer.status} to {method} {address}: {said}"
            )
        return answer.json() if answer.data else {}
