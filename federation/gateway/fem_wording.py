"""How clients of the FEM REST interface write their requests: what they are used to is put straight before anything else sees it.

| what they do | what becomes of it |
|---|---|
| a doubled slash (`tools/job//NAME`), or one at the end | one, or none |
| spaces in the query's keys (`nodes = A`) | none, and none around that value |
| lists repeated, or with commas (`client_nodes=A,B`) | one list |
| nothing, or `{}`, as the body | no arguments |
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from fdn_worker.protocol.base import check_relative_path
from federation.catalogue.node import node_id
from federation.nearest import unknown
from federation.request import BadRequest
from storage.records import NodeRow

#: What the paths of the interface hold, whatever the project before it.
PLACE = "/API/v1"
#: Names that are taken for an id by their letters alone; quotes and the like are part of no node's name.
_PLAIN = re.compile(r"[\w .-]+")
_SANDBOX = re.compile(r"^\$(\{SANDBOX_PATH\}|SANDBOX_PATH)(?=/|$)")


class PutStraight:
    """ASGI middleware around the whole application: slashes and the query's keys."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = re.sub("/{2,}", "/", scope["path"]).rstrip("/")
            if f"{PLACE}/" in f"{path}/":
                scope = {**scope, "path": path, "query_string": _query(scope["query_string"])}
                scope.pop("raw_path", None)
        await self._app(scope, receive, send)


def _query(query: bytes) -> bytes:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return urlencode([(key.strip(), value if key == key.strip() else value.strip()) for key, value in pairs]).encode()


def each(values: Sequence[str]) -> list[str]:
    """The names in a list that may be repeated, or hold commas, each once."""
    return list(dict.fromkeys(name for value in values for part in value.split(",") if (name := part.strip())))


async def arguments(request: Request) -> dict[str, Any]:
    """The body, whatever it says that its type is."""
    body = (await request.body()).strip()
    if not body:
        return {}
    try:
        found = json.loads(body, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()  # half of a character, as JSON may have it, is no text
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}", remedy="send an object of arguments, or nothing") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadRequest("the body holds no object", remedy="send an object of arguments, {} for none")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def relative(path: str, what: str) -> str:
    """A path below what a node has sent back, as clients write it: below $SANDBOX_PATH, or with a slash before it. No such path climbs."""
    below = _SANDBOX.sub("", path.strip()).removeprefix("./").strip("/")
    if below in ("", "."):
        return ""
    try:
        return check_relative_path(below)
    except ValueError as error:
        raise BadRequest(f"{what} {path[:200]!r}: {error}", remedy="name a file as list_files tells it") from error


class Names:
    """Nodes as these clients know them: by the display name, where it is one node's alone."""

    def __init__(self, rows: Sequence[NodeRow]) -> None:
        times = Counter(row.display_name for row in rows)
        self._shown = {row.name: row.display_name if times[row.display_name] == 1 and row.display_name else row.name for row in rows}
        self._here = {row.name for row in rows if row.retired is None}
        self._ids = {name.lower(): id_ for id_, name in self._shown.items()}

    def shown(self, node: str) -> str:
        """The name of a node that is, or was, enrolled."""
        return self._shown.get(node, node)

    def known(self, name: str, *, retired: bool = False) -> str | None:
        """The id of the node that is meant, in whatever case; None if there is none. `retired` ones count, too."""
        ids, name = set(self._shown) if retired else self._here, name.strip()
        meant = (name, self._ids.get(name.lower()), node_id(name) if _PLAIN.fullmatch(name) else None)
        return next((wanted for wanted in meant if wanted in ids), None)

    def id(self, name: str, *, retired: bool = False) -> str:
        """The same; BadRequest if there is none."""
        if found := self.known(name, retired=retired):
            return found
        raise BadRequest(
            f"node {name[:80]!r} is not enrolled", code="unknown-node",
            remedy=unknown(name, (self._shown[id_] for id_ in self._here), "enrolled are") or "there are none yet",
        )  # fmt: skip

    def ids(self, values: Sequence[str], *, retired: bool = False) -> list[str]:
        """Those of a list as clients write it."""
        return list(dict.fromkeys(self.id(name, retired=retired) for name in each(values)))
