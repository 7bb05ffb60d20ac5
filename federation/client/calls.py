"""What both clients say and understand alike: requests, when to try again, events of a stream."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx

#: Tries of a request while the gateway is busy or a part of it is down; seconds of the first pause, doubled each time, and at most.
TRIES, PAUSE, LONGEST = 6, 0.5, 20.0
#: Seconds without a byte after which a connection is taken for gone; an event stream says every 15 that all is well.
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
#: Answers after which another try makes sense.
AGAIN = frozenset({429, 503})
OPEN = "OPEN"


def headers(token: str) -> dict[str, str]:
    """Those of each request."""
    return {"Authorization": f"Bearer {token}"}


def pause(attempt: int, answer: httpx.Response | None) -> float:
    """Seconds until the next try: as the gateway says, and else longer each time, not in step with others."""
    told = answer.headers.get("Retry-After", "") if answer is not None else ""
    if told.isdigit():
        return min(float(told), LONGEST * 3)
    return min(PAUSE * 2.0**attempt, LONGEST) * random.uniform(0.5, 1.0)


def submission(tool: str, nodes: list[str], arguments: dict[str, Any], key: str, policies: dict[str, Any]) -> dict[str, Any]:
    """The request of a submission, as httpx takes it. With its key it may be sent again without a second execution."""
    return {
        "json": {"tool": tool, "nodes": nodes, "arguments": arguments, **policies}, "headers": {"Idempotency-Key": key or uuid4().hex}
    }  # fmt: skip


def output(execution: str, file: dict[str, Any]) -> str:
    """Path of one output."""
    return f"executions/{execution}/outputs/{quote(file['task'], safe='')}/{quote(file['node'], safe='')}/{quote(file['path'])}"


def matching(files: list[dict[str, Any]], pattern: str) -> list[dict[str, Any]]:
    """Those whose path has the pattern, such as *.csv or model/*."""
    return [file for file in files if PurePosixPath(file["path"]).match(pattern)]


@dataclass
class Stream:
    """Reads the events of a stream, line by line."""

    last: str = ""
    _lines: list[str] = field(default_factory=list)

    def read(self, line: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """An event (name, data), where the line ends one."""
        if line:
            self._lines.append(line)
            return
        fields: dict[str, str] = {}
        for one in self._lines:
            name, _, value = one.partition(":")
            fields[name] = value.removeprefix(" ")
        self._lines = []
        self.last = fields.get("id", self.last)
        if "event" in fields:
            yield fields["event"], json.loads(fields.get("data") or "{}")


def lines_of(data: dict[str, Any]) -> Iterator[str]:
    """The log lines of an event `run`, each after its node's name."""
    for line in data["lines"]:
        yield f"{data['node']} | {line}"
