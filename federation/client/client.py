"""The clients: one for programs and notebooks, one for event loops. The same methods, the same answers.

Requests are sent again while the gateway is busy or a part of it is down; a submission has a key of its own, so that none runs twice.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from federation.client import calls
from federation.client.errors import Problem, problem_of
from federation.client.progress import Bar
from federation.client.shown import Execution, Executions, Nodes, Tools

if TYPE_CHECKING:
    import pandas as pd

Result = TypeVar("Result")


class AsyncClient:
    """`token` is an API token (`fem tokens create`). Use it as `async with`, or `close` it."""

    def __init__(self, url: str, token: str, **options: Any) -> None:
        """`options` are httpx's, such as `verify`."""
        options = {"timeout": calls.TIMEOUT, **options}
        self._http = httpx.AsyncClient(base_url=f"{url.rstrip('/')}/api/v2/", headers=calls.headers(token), **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.aclose()

    async def submit(
        self, tool: str, nodes: Sequence[str], arguments: dict[str, Any] | None = None, *, key: str = "", **policies: Any
    ) -> str:
        """Submit a tool at nodes; the execution's id. The same `key` gives the same one. `policies` are a submission's other fields: quorum,
        retries, deadline, server_node, project and so on."""
        asked = calls.submission(tool, list(nodes), arguments or {}, key, policies)
        return str((await self._ask("POST", "executions", **asked)).json()["id"])

    async def execution(self, id: str) -> Execution:
        """How it stands, with its runs."""
        return Execution((await self._ask("GET", f"executions/{id}")).json())

    async def executions(self, limit: int = 50, **filters: Any) -> Executions:
        """The newest first; `filters` are state, user, project, tool, node, text and since."""
        found, cursor = Executions(), ""
        while len(found) < limit:
            asked = {**filters, "limit": min(limit - len(found), 500), "cursor": cursor}
            page = (await self._ask("GET", "executions", params=asked)).json()
            found += page["items"]
            cursor = page["next"]
            if not cursor:
                break
        return found

    async def wait(self, id: str, *, progress: bool = True, timeout: float | None = None) -> Execution:
        """Wait until it is closed; a bar shows how many runs have ended. TimeoutError after `timeout` seconds: the execution goes on."""
        async with asyncio.timeout(timeout):
            found = await self.execution(id)
            with Bar(found, shown=progress) as bar:
                while found.state == calls.OPEN:
                    async with aclosing(self.events(id)) as events:
                        async for name, data in events:
                            bar.heard(name, data)
                    found = await self.execution(id)
                bar.done(found)
        return found

    async def events(self, id: str) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """What is said of it, (name, data) each, until it is closed; goes on by itself where a connection breaks."""
        stream, attempt = calls.Stream(), 0
        while True:
            try:
                headers = {"Last-Event-ID": stream.last} if stream.last else {}
                async with self._http.stream("GET", f"executions/{id}/events", headers=headers) as answer:
                    if answer.status_code == 204:
                        return
                    await self._good(answer)
                    async for line in answer.aiter_lines():
                        for name, data in stream.read(line):
                            attempt = 0
                            if name == "end":
                                return
                            yield name, data
            except (httpx.TransportError, Problem) as error:
                if (isinstance(error, Problem) and error.status not in calls.AGAIN) or attempt >= calls.TRIES:
                    raise
            stream = calls.Stream(stream.last)
            await asyncio.sleep(calls.pause(attempt, None))
            attempt += 1

    async def follow(self, id: str) -> AsyncGenerator[str]:
        """Its log lines, from the first on, as they come."""
        async with aclosing(self.events(id)) as events:
            async for name, data in events:
                if name == "run":
                    for line in calls.lines_of(data):
                        yield line

    async def logs(self, id: str) -> str:
        """The lines that came so far."""
        return (await self._ask("GET", f"executions/{id}/logs")).text

    async def cancel(self, id: str) -> None:
        """End it at all its nodes."""
        await self._ask("POST", f"executions/{id}/cancel")

    async def retry(self, id: str) -> None:
        """Do again what ended badly."""
        await self._ask("POST", f"executions/{id}/retry")

    async def outputs(self, id: str) -> list[dict[str, Any]]:
        """The files that have come back: task, node, path, size and sha256 of each."""
        return list((await self._ask("GET", f"executions/{id}/outputs")).json()["files"])

    async def download(self, id: str, to: str | Path = ".", pattern: str = "*") -> list[Path]:
        """Fetch outputs whose path has the pattern into TASK/NODE/PATH below the folder; the files."""
        found = []
        for file in calls.matching(await self.outputs(id), pattern):
            path = Path(to, file["task"], file["node"], file["path"])
            if not path.resolve().is_relative_to(Path(to).resolve()):
                raise ValueError(f"{path} is not below {to}")
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            with part.open("wb") as sink:
                async with self._http.stream("GET", calls.output(id, file)) as answer:
                    await self._good(answer)
                    async for chunk in answer.aiter_bytes():
                        await asyncio.to_thread(sink.write, chunk)
            # Whole, or not there.
            found.append(part.replace(path))
        return found

    async def results(self, id: str, pattern: str = "*.csv") -> pd.DataFrame:
        """All CSV outputs as one table, with the columns `task`, `node` and `file` before theirs."""
        import pandas as pd

        frames = []
        for file in calls.matching(await self.outputs(id), pattern):
            data = (await self._ask("GET", calls.output(id, file))).content
            frames.append(pd.read_csv(io.BytesIO(data)).assign(task=file["task"], node=file["node"], file=file["path"]))
        if not frames:
            return pd.DataFrame()
        found = pd.concat(frames, ignore_index=True)
        return found[["task", "node", "file", *(name for name in found.columns if name not in ("task", "node", "file"))]]

    async def nodes(self) -> Nodes:
        """The nodes, and how they were last heard."""
        return Nodes((await self._ask("GET", "nodes")).json())

    async def tools(self) -> Tools:
        """The catalogue."""
        return Tools((await self._ask("GET", "tools")).json())

    async def plan(self, tool: str, nodes: Sequence[str], arguments: dict[str, Any] | None = None, **policies: Any) -> dict[str, Any]:
        """What the nodes would say to the submission; nothing runs."""
        asked = calls.submission(tool, list(nodes), arguments or {}, "", policies)
        return dict((await self._ask("POST", f"tools/{tool}/plan", json=asked["json"])).json())

    async def accounting(self, by: Sequence[str] = ("user",), **filters: Any) -> pd.DataFrame:
        """What was used; `filters` are period, since, until, user, project, tool, node, task and state."""
        import pandas as pd

        return pd.DataFrame((await self._ask("GET", "reports/accounting", params={"by": list(by), **filters})).json())

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        attempt = 0
        while True:
            answer: httpx.Response | None = None
            try:
                answer = await self._http.request(method, path, **more)
            except httpx.TransportError:
                if attempt >= calls.TRIES:
                    raise
            if answer is not None and (answer.status_code not in calls.AGAIN or attempt >= calls.TRIES):
                await self._good(answer)
                return answer
            await asyncio.sleep(calls.pause(attempt, answer))
            attempt += 1

    async def _good(self, answer: httpx.Response) -> None:
        if answer.is_error:
            await answer.aread()
            raise problem_of(answer)


class Client:
    """The same without an event loop, also inside a notebook's: calls are made by a loop in a thread of its own."""

    def __init__(self, url: str, token: str, **options: Any) -> None:
        """`options` are httpx's, such as `verify`."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fem-client", daemon=True)
        self._thread.start()
        self._client = AsyncClient(url, token, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections."""
        if self._thread.is_alive():
            self._do(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def submit(self, tool: str, nodes: Sequence[str], arguments: dict[str, Any] | None = None, *, key: str = "", **policies: Any) -> str:
        """Submit a tool at nodes; the execution's id. See `AsyncClient`, as for all others."""
        return self._do(self._client.submit(tool, nodes, arguments, key=key, **policies))

    def execution(self, id: str) -> Execution:
        return self._do(self._client.execution(id))

    def executions(self, limit: int = 50, **filters: Any) -> Executions:
        return self._do(self._client.executions(limit, **filters))

    def wait(self, id: str, *, progress: bool = True, timeout: float | None = None) -> Execution:
        return self._do(self._client.wait(id, progress=progress, timeout=timeout))

    def events(self, id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return self._each(self._client.events(id))

    def follow(self, id: str) -> Iterator[str]:
        return self._each(self._client.follow(id))

    def logs(self, id: str) -> str:
        return self._do(self._client.logs(id))

    def cancel(self, id: str) -> None:
        self._do(self._client.cancel(id))

    def retry(self, id: str) -> None:
        self._do(self._client.retry(id))

    def outputs(self, id: str) -> list[dict[str, Any]]:
        return self._do(self._client.outputs(id))

    def download(self, id: str, to: str | Path = ".", pattern: str = "*") -> list[Path]:
        return self._do(self._client.download(id, to, pattern))

    def results(self, id: str, pattern: str = "*.csv") -> pd.DataFrame:
        return self._do(self._client.results(id, pattern))

    def nodes(self) -> Nodes:
        return self._do(self._client.nodes())

    def tools(self) -> Tools:
        return self._do(self._client.tools())

    def plan(self, tool: str, nodes: Sequence[str], arguments: dict[str, Any] | None = None, **policies: Any) -> dict[str, Any]:
        return self._do(self._client.plan(tool, nodes, arguments, **policies))

    def accounting(self, by: Sequence[str] = ("user",), **filters: Any) -> pd.DataFrame:
        return self._do(self._client.accounting(by, **filters))

    def _do(self, call: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            # Also where somebody interrupts the wait: nothing of it goes on behind his back.
            future.cancel()
            raise

    def _each(self, items: AsyncGenerator[Result]) -> Iterator[Result]:
        try:
            while True:
                found = self._do(_next(items))
                if found is None:
                    return
                yield found
        finally:
            self._do(items.aclose())


async def _next(items: AsyncGenerator[Result]) -> Result | None:
    """None at the end."""
    return await anext(items, None)
