"""A client of the FEM REST interface, written from the facts of its reference alone, with the habits that existing clients have."""

from __future__ import annotations

from typing import Any

import httpx


class FemRestClient:
    """Signs in, submits, polls and fetches. `http` goes to `/{project}/API/v1`; a status other than 2xx is an httpx.HTTPStatusError."""

    def __init__(self, http: httpx.AsyncClient, base: str) -> None:
        self._http, self._base = http, base

    async def sign_in(self, username: str, password: str) -> None:
        form = {"grant_type": "password", "username": username, "password": password}
        granted = (await self._asked("POST", "/token", data=form)).json()
        assert granted["token_type"] == "bearer"
        self._http.headers["Authorization"] = f"Bearer {granted['access_token']}"

    async def get(self, path: str, **params: Any) -> Any:
        return (await self._asked("GET", path, params=params)).json()

    async def submit(self, tool: str, nodes: list[str], *, server: str = "", arguments: dict[str, Any] | None = None) -> str:
        """The execution's id; with the doubled slash, and the nodes joined by commas."""
        params = {"client_nodes": ",".join(nodes)} | ({"server_node": server} if server else {})
        answer = (await self._asked("POST", f"/tools/job//{tool}", params=params, json=arguments)).json()
        assert answer["status"] == "success"
        assert answer["execution_id"] == answer["result"]["execution_id"]
        return str(answer["execution_id"])

    async def statuses(self, execution: str) -> list[dict[str, Any]]:
        found = await self.get(f"/executions/status/{execution}")
        assert isinstance(found, list)
        return found

    async def running(self, execution: str) -> bool:
        """Whatever is not `running` is an end."""
        return any(one["status"] == "running" for one in await self.statuses(execution))

    async def logs(self, execution: str) -> str:
        return (await self._asked("GET", f"/executions/logs/{execution}")).text

    async def cancel(self, execution: str, method: str = "GET") -> None:
        await self._asked(method, f"/executions/cancel_run/{execution}")

    async def files(self, execution: str, nodes: str = "") -> dict[str, list[str]] | None:
        """Node -> its files; None while there is nothing yet."""
        # with the spaces that a client of long standing writes around the =
        found = (await self._asked("GET", f"/data/list_files?execution_id={execution}&path=&nodes = {nodes}")).json()
        return None if "user_id" in found else {node: told["files"] for node, told in found.items()}

    async def download(self, execution: str, node: str = "", file: str = "") -> bytes:
        params = {"execution_id": execution, "node": node, "file": file}
        return (await self._asked("GET", "/data/download_files", params={name: value for name, value in params.items() if value})).content

    async def _asked(self, method: str, path: str, **more: Any) -> httpx.Response:
        answer = await self._http.request(method, self._base + path, **more)
        answer.raise_for_status()
        return answer
