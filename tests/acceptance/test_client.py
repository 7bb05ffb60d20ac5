"""The Python client and its notebook against `fem serve`, over an embedded federation of two nodes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from federation.catalogue.folder import load
from federation.catalogue.tool import Tool
from federation.centre import Centre
from federation.client import AsyncClient, Client, Problem
from federation.gateway.access import Role
from federation.gateway.users import add_user, api_token
from federation.local import LocalFederation
from federation.sync import carry_out, differing
from tests.support.gateway_process import serving
from tests.support.shell import shell

from .conftest import BIN, ROOT

SCRIPT = "open('ages.csv', 'w').write('age,count\\n61,1\\n48,2\\n'); print('counted')"
TOOL = {
    "name": "ages", "description": "Counts <b>ages</b>.",
    "tasks": [{"id": "main", "timeout": 100, "outputs": ["ages.csv"], "command": {"base": ["python3", "-c", SCRIPT]}}],
}  # fmt: skip
WAITS = {"name": "waits", "tasks": [{"id": "main", "timeout": 100, "command": {"base": ["sleep", "90"]}}]}


@pytest.fixture(scope="module")
def access(
    prefect_api: dict[str, str], federation: LocalFederation, centre: Centre, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Address and token."""
    catalogue = load(ROOT / "deployments/catalogue")
    carry_out(centre, catalogue, differing(centre, catalogue))
    for tool in (TOOL, WAITS):
        centre.records.catalogue.put_tool(str(tool["name"]), Tool.model_validate(tool).model_dump_json())
    add_user(centre.records.gateway, "clara", Role.RESEARCHER, "correct horse battery", [], by="test")
    token = api_token(centre.records.gateway, "clara", "notebook", None, by="test")
    with serving(shell(BIN, prefect_api, federation.environment()), tmp_path_factory.mktemp("serve")) as address:
        yield address, token


def test_from_a_submission_to_a_table(access: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Client(*access) as client:
        assert [node["name"] for node in client.nodes()] == ["site-a", "site-b"]
        assert "Counts &lt;b&gt;ages&lt;/b&gt;." in client.tools()._repr_html_()
        assert client.plan("ages", ["site-a"])["runs"][0]["node"] == "site-a"
        id_ = client.submit("ages", ["site-a", "site-b"], key="once")
        assert client.submit("ages", ["site-a", "site-b"], key="once") == id_
        found = client.wait(id_)
        assert (found.state, list(found.table()["state"])) == ("SUCCEEDED", ["SUCCEEDED", "SUCCEEDED"])
        assert "100%" in capsys.readouterr().out
        assert "SUCCEEDED" in found._repr_html_()
        assert sorted(client.follow(id_)) == ["site-a | counted", "site-b | counted"]
        assert "counted" in client.logs(id_)
        table = client.results(id_)
        assert list(table.columns) == ["task", "node", "file", "age", "count"]
        assert (len(table), table["count"].sum()) == (4, 6)
        # In the order in which their runs ended.
        files = sorted(client.download(id_, tmp_path, "*.csv"))
        assert [path.relative_to(tmp_path) for path in files] == [Path("main/site-a/ages.csv"), Path("main/site-b/ages.csv")]
        assert files[0].read_text().startswith("age,count")
        assert id_ in [one["id"] for one in client.executions(tool="ages")]
        assert client.accounting(["tool"], tool="ages")["runs"].tolist() == [2]


async def test_a_wait_ends_with_the_cancel_of_somebody_else(access: tuple[str, str]) -> None:
    async with AsyncClient(*access) as client:
        id_ = await client.submit("waits", ["site-b"])
        async for name, data in client.events(id_):
            if name == "run" and data["state"] == "RUNNING":
                break
        with pytest.raises(TimeoutError):
            await client.wait(id_, progress=False, timeout=0.01)
        await client.cancel(id_)
        assert (await client.wait(id_, progress=False)).state == "CANCELLED"


def test_errors_are_raised_in_the_words_of_the_gateway(access: tuple[str, str]) -> None:
    address, token = access
    with Client(address, token) as client:
        with pytest.raises(Problem, match="tool 'agse' is unknown") as refused:
            client.submit("agse", ["site-a"])
        assert (refused.value.status, refused.value.code) == (404, "unknown-tool")
        with pytest.raises(Problem, match="not yours to see"):
            client.wait("00000000-0000-0000-0000-000000000000")
    with Client(address, "wrong") as stranger, pytest.raises(Problem, match="not signed in"):
        stranger.nodes()


def test_the_notebook(access: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, token = access
    monkeypatch.setenv("FEM_GATEWAY", address)
    monkeypatch.setenv("FEM_TOKEN", token)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shutil.copy(ROOT / "examples/notebook.ipynb", tmp_path)
    notebook = nbformat.read(tmp_path / "notebook.ipynb", as_version=4)
    done = NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = str([cell.get("outputs") for cell in done.cells])
    assert "SUCCEEDED" in shown
    assert "site-a" in shown
