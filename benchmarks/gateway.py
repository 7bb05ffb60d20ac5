"""`fem serve` under 200 dashboards that poll the FEM REST interface and 50 followers of logs, with 10,000 executions in the records.

Each dashboard is a user of its own, and asks every 2 to 5 s how its execution stands and, in turn, for its files, the nodes, the
log, the tools and the report. Each follower has an execution's events sent (/api/v2), to which lines come each second. Client,
writer and gateway share the machine. A page is opened in Chromium by an administrator, to whom all executions are shown.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psutil

from benchmarks.gateway_records import LINES, NODES, fill, said, tokens
from benchmarks.harness import Figure, Median, memory
from benchmarks.house import Services
from federation.centre import Centre
from federation.gateway.signing import COOKIE
from federation.gateway.tokens import made
from federation.local import LocalFederation

#: Seconds between two polls of a dashboard; seconds of load before it is measured.
PAUSE, WARM = (2.0, 5.0), 20.0
#: Seconds that may pass until an answer is whole and a page is open, MiB that memory may grow by meanwhile.
MOST, OPEN, GROWTH = 0.2, 1.0, 20.0


@dataclass
class Seen:
    """What the clients saw; times in seconds, of what began after `since`."""

    since: float = float("inf")
    answers: list[float] = field(default_factory=list)
    #: From a line's record to its follower.
    lines: list[float] = field(default_factory=list)


def measure(services: Services, quick: bool) -> Iterator[Figure]:  # noqa: ARG001 (every benchmark gets them)
    dashboards, followers, executions, look = (20, 5, 500, 5.0) if quick else (200, 50, 10_000, 60.0)
    with tempfile.TemporaryDirectory(prefix="fem-bench-") as folder:
        federation = LocalFederation(Path(folder) / "fem", NODES)
        federation.prepare()
        centre = Centre.open(federation.settings())
        users = [f"user-{number}" for number in range(dashboards)]
        going, keys = fill(centre, executions, users), tokens(centre, users)
        with _serving(federation) as (process, address):
            opened = list(_opened(centre, address, 2 if quick else 10))
            load = _Load(centre, address, going, keys, followers)
            begun, ended = asyncio.run(load.run(process, look))
        centre.close()
    seconds = sorted(load.seen.answers)
    p50, p99 = (seconds[int(len(seconds) * share)] for share in (0.5, 0.99))
    name = f"{dashboards} dashboards, {followers} followers, {executions:,} executions"
    rate = len(seconds) / look
    yield Figure(f"{name}: answers, p50", f"{rate:.0f} a second", "", Median.of([p50 * 1e3]), " ms", None)
    yield Figure(f"{name}: answers, p99", f"{rate:.0f} a second", "", Median.of([p99 * 1e3]), " ms", MOST * 1e3)
    late = sorted(load.seen.lines)
    told = f"{len(late) / look * 10:.0f} lines a second"
    yield Figure(f"{name}: a line's way to its follower, p99", told, "", Median.of([late[int(len(late) * 0.99)]]), " s", None)
    cpu = 100 * (ended.cpu - begun.cpu) / look
    yield Figure(f"{name}: CPU of the gateway", f"{10 * cpu / rate:.1f} ms an answer", "", Median.of([cpu]), " % of a core", None)
    yield Figure(f"{name}: memory", f"{ended.memory:.0f} MiB", "", Median.of([ended.memory - begun.memory]), " MiB more", GROWTH)
    if opened:
        yield Figure(f"the page of {executions:,} executions opens in Chromium", "", "", Median.of(opened), " s", OPEN)


@dataclass(frozen=True)
class Standing:
    """What a process has used: CPU seconds, MiB."""

    cpu: float
    memory: float

    @classmethod
    def of(cls, process: psutil.Process) -> Standing:
        used = process.cpu_times()
        return cls(used.user + used.system, memory(process.pid))


class _Load:
    """All clients, in one event loop on bare streams: a client library would take as long as the gateway."""

    def __init__(self, centre: Centre, address: str, going: Mapping[str, str], keys: Mapping[str, str], followers: int) -> None:
        self._centre, self._going, self._keys = centre, going, keys
        self._host, self._port = urlsplit(address).hostname, urlsplit(address).port
        self._followed = list(going)[:followers]
        self.seen = Seen()

    async def run(self, process: psutil.Process, look: float) -> tuple[Standing, Standing]:
        """How the gateway stood when the look began and when it ended."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._dashboard(user)) for user in self._going]
            tasks += [group.create_task(self._follower(user)) for user in self._followed]
            tasks.append(group.create_task(self._writer()))
            await asyncio.sleep(WARM)
            begun, self.seen.since = Standing.of(process), time.monotonic()
            await asyncio.sleep(look)
            ended = Standing.of(process)
            for task in tasks:
                task.cancel()
        return begun, ended

    async def _dashboard(self, user: str) -> None:
        own, dice = self._going[user], random.Random(user)
        in_turn = cycle((f"data/list_files?execution_id={own}", "hosts", f"executions/logs/{own}", "tools", f"executions/report/{own}"))
        await asyncio.sleep(dice.uniform(0, PAUSE[1]))
        reader, writer = await asyncio.open_connection(self._host, self._port)
        for path in in_turn:
            for one in (f"executions/status/{own}", path):
                began = time.monotonic()
                await self._ask(reader, writer, f"/heart/API/v1/{one}", user)
                if began > self.seen.since:
                    self.seen.answers.append(time.monotonic() - began)
            await asyncio.sleep(dice.uniform(*PAUSE))

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, user: str) -> None:
        writer.write(self._request(path, user))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{path}: {head.decode()}")
        if length := re.search(rb"content-length: (\d+)", head):
            await reader.readexactly(int(length[1]))
            return
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()

    def _request(self, path: str, user: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {self._keys[user]}\r\n\r\n".encode()

    async def _follower(self, user: str) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=2**20)
        writer.write(self._request(f"/api/v2/executions/{self._going[user]}/events", user))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"events: {head.decode()}")
        while line := await reader.readline():
            # The moment of a line stands in it.
            if (at := re.search(rb'written (\d+\.\d+)"', line)) and float(at[1]) > self.seen.since:
                self.seen.lines.append(time.monotonic() - float(at[1]))
        raise RuntimeError("a follower was let go")

    async def _writer(self) -> None:
        """Ten lines a second to each execution that is followed."""
        runs = [(UUID(self._going[user]), self._centre.records.runs_of(self._going[user])[1]) for user in self._followed]
        for number in count(LINES // 10 + 1):
            written = f"written {time.monotonic():.3f}"
            events = [event for execution, run in runs for event in said(execution, run.node, run.id, number, 10)]
            events = [event.model_copy(update={"lines": (*event.lines[:-1], written)}) for event in events]
            await asyncio.to_thread(self._centre.records.record_events, events)
            await asyncio.sleep(1)


@contextmanager
def _serving(federation: LocalFederation) -> Iterator[tuple[psutil.Process, str]]:
    log = federation.home / "serve.log"
    command = [str(Path(sys.executable).parent / "fem"), "serve", "--port", "0"]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env=os.environ | federation.environment(), stdout=sink, stderr=sink)
    try:
        while not (found := re.search(r"^serving at (\S+)$", log.read_text(), re.MULTILINE)):
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.1)
        yield psutil.Process(process.pid), found[1]
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def _opened(centre: Centre, address: str, times: int) -> Iterator[float]:
    """Seconds until a browser shows the list of executions, none if there is no browser here; the first time, which fetches all scripts, is left out."""
    from datetime import timedelta

    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        return
    centre.records.gateway.add_user("all-seeing", "administrator", None, by="benchmark")
    cookie, row = made("session", "all-seeing", str(uuid4()), timedelta(hours=1))
    centre.records.gateway.add_tokens(row)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"))
        context = browser.new_context(base_url=address)
        context.add_cookies([{"name": COOKIE, "value": cookie, "url": address}])
        page = context.new_page()
        for number in range(times + 1):
            began = time.perf_counter()
            page.goto("/ui/executions", wait_until="commit")
            page.get_by_role("row").nth(5).wait_for()
            if number:
                yield time.perf_counter() - began
        browser.close()
