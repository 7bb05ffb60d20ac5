"""The catalogue that comes with the centre, its schemas and its page; tools in the records; `fem tools`."""

from __future__ import annotations

import csv
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from fdn_worker.errors import FdnError
from federation.catalogue import node as node_models
from federation.catalogue import tool as tool_models
from federation.catalogue.find import find_node, find_tool
from federation.catalogue.folder import load, load_tool
from federation.catalogue.placeholders import NAMES
from federation.catalogue.schemas import FOLDER, MODELS, path_from, schema
from federation.catalogue.tool import Tool
from federation.centre import Centre
from federation.request import BadRequest, build
from flows import cli, connection, exit_codes
from tests.support.waiting import SOON

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = ROOT / "deployments/catalogue"
SCRIPTS = CATALOGUE / "tools/scripts"
FILES = sorted(CATALOGUE.glob("*/*.yaml"))


def test_the_catalogue_is_right() -> None:
    catalogue = load(CATALOGUE)
    assert {"data-summary", "fl-demo", "get-output", "hello"} <= set(catalogue.tools)
    assert catalogue.warnings == ()
    assert all(path.stem in catalogue.tools for path in FILES if path.parent.name == "tools")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_editor_finds_the_schema(path: Path) -> None:
    named = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == FOLDER / f"{path.parent.name.removesuffix('s')}.schema.json"
    assert named == path_from(path.parent, Path(named).name)


@pytest.mark.parametrize("name", MODELS)
def test_schemas_are_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text() == schema(MODELS[name]), "write them again: python -m federation.catalogue.schemas"


def test_a_schema_has_every_key_of_a_file_and_no_other() -> None:
    made = json.loads(schema(Tool))
    assert set(made["properties"]) == set(Tool.model_fields) - {"contents"}
    task = made["$defs"]["TaskTemplate"]["properties"]
    assert {"type": "string"} in task["host_list"]["anyOf"]
    assert task["ends_with_clients"]["description"].startswith("A server that never ends by itself")


def parts() -> list[type[BaseModel]]:
    found = [*vars(tool_models).values(), *vars(node_models).values()]
    return list(
        dict.fromkeys(kind for kind in found if isinstance(kind, type) and issubclass(kind, tool_models.Entry) and kind.model_fields)
    )


def test_the_page_has_every_key_and_placeholder() -> None:
    page = (ROOT / "docs/reference/catalogue.md").read_text()
    told = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    keys = {name for model in parts() for name in model.model_fields} - {"contents"}
    assert told == keys
    assert [name for name in NAMES if f"`%%{name}%%`" not in page] == []


# In the records


def a_tool(name: str, **fields: Any) -> Tool:
    return build(Tool, name=name, tasks=[{"command": {"base": "run"}}], **fields)


def put(centre: Centre, tool: Tool) -> bool:
    return centre.records.catalogue.put_tool(tool.name, tool.model_dump_json())


def test_finding_a_tool(centre: Centre, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"tool 'x' is unknown \(there are none yet: `fem sync`"):
        find_tool(centre.records, "x")
    put(centre, a_tool("data-summary"))
    put(centre, a_tool("hello"))
    assert find_tool(centre.records, "data-summary") == find_tool(centre.records, "Data_Summary") == a_tool("data-summary")
    with pytest.raises(BadRequest, match=r"tool 'data-sumary' is unknown \(there are: data-summary\)"):
        find_tool(centre.records, "data-sumary")
    centre.records.catalogue.withdraw_tool("hello")
    with pytest.raises(BadRequest, match="tool 'hello' was withdrawn"):
        find_tool(centre.records, "hello")
    assert find_tool(centre.records, str(CATALOGUE / "tools/hello.yaml")).contents
    with pytest.raises(FdnError, match="there is no such file"):
        find_tool(centre.records, "gone.yaml")


def test_finding_a_node(centre: Centre) -> None:
    centre.records.enrol_node("site-b", public_key="", display_name="Hospital North")
    assert [find_node(centre.records, name) for name in ("site-a", "SITE_A", "hospital north")] == ["site-a", "site-a", "site-b"]
    with pytest.raises(BadRequest, match=r"node 'site-x' is not enrolled \(there are: site-a, site-b\)"):
        find_node(centre.records, "site-x")
    centre.records.retire_node("site-b")
    with pytest.raises(BadRequest, match="node 'site-b' is not enrolled"):
        find_node(centre.records, "site-b")


# The command


def fem(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["tools", *words])


def test_list_and_show(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "centre", lambda: centre)
    monkeypatch.setenv("COLUMNS", "120")
    assert "no tools yet" in fem("list").stdout
    put(centre, load_tool(CATALOGUE / "tools/data-summary.yaml"))
    listed = fem("list").stdout
    assert "data-summary" in listed
    assert "summary" in listed
    assert [tool["name"] for tool in json.loads(fem("list", "--json").stdout)] == ["data-summary"]
    shown = fem("show", "data-summary").stdout
    assert re.search(r"^dataset +str +required +The dataset's name at the nodes", shown, re.MULTILINE)
    assert re.search(r"^k +int +5 ", shown, re.MULTILINE)
    assert "contents" not in json.loads(fem("show", "data-summary", "--json").stdout)


def test_show_of_a_file_needs_no_federation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "centre", lambda: pytest.fail("it was asked"))
    assert "task server: a server's, at one node; fem-python:1" in fem("show", str(CATALOGUE / "tools/fl-demo.yaml")).stdout


def test_validate(tmp_path: Path) -> None:
    assert f"{CATALOGUE}: " in fem("validate", str(CATALOGUE)).stdout
    assert fem("validate", str(CATALOGUE / "tools/hello.yaml")).stdout.endswith(": hello: all right\n")
    (tmp_path / "x.yaml").write_text("name: x\n")
    failed = fem("validate", str(tmp_path / "x.yaml"))
    assert str(failed.exception) == f"{tmp_path}/x.yaml:1: tasks: is required"
    assert exit_codes.of_error(failed.exception) == exit_codes.USAGE


def test_import(tmp_path: Path) -> None:
    legacy = str(Path(__file__).parent / "data/fem/averaging.json")
    done = fem("import", legacy, "--to", str(tmp_path / "tools"))
    assert done.stdout == f"wrote {tmp_path}/tools/fl-averaging.yaml\n"
    assert "gpus 'all' taken as 1" in done.stderr
    assert load(tmp_path).tools["fl-averaging"] == load_tool(Path(legacy))
    again = fem("import", legacy, "--to", str(tmp_path / "tools"))
    assert "is there already (--force replaces it)" in str(again.exception)
    assert fem("import", legacy, "--to", str(tmp_path / "tools"), "--force").exit_code == 0


def test_none_of_it_imports_prefect() -> None:
    script = "import sys; from flows import cli_tools; import federation.catalogue.find; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


# The scripts


def summarise(folder: Path, text: str, *words: str) -> Any:
    """What data-summary makes of a CSV file: (rows, column -> what is told)."""
    data = folder / "data/census"
    data.mkdir(parents=True, exist_ok=True)
    (data / "people.csv").write_text(text)
    argv = [sys.executable, SCRIPTS / "summary.py", "census", *words]
    subprocess.run(argv, cwd=folder, env={"DATA_PATH": str(folder / "data"), "NODE_NAME": "site-a"}, check=True, capture_output=True)
    told = json.loads((folder / "summary.json").read_text())["files"]["people.csv"]
    return told["rows"], {column.pop("column"): column for column in told["columns"]}


def test_summary(tmp_path: Path) -> None:
    rows = "\n".join(f"{20 + n},{n / 4},town {n},{'' if n < 6 else n}" for n in range(12))
    count, columns = summarise(tmp_path, f"age,dose,town,late\n{rows}\n")
    assert count == 12
    assert columns["age"] == {"type": "int", "present": 12, "missing": 0, "min": 20, "max": 31}
    assert columns["dose"] == {"type": "float", "present": 12, "missing": 0, "min": 0.0, "max": 2.75}
    assert columns["town"] == {"type": "text", "present": 12, "missing": 0, "min": None, "max": None}
    assert columns["late"] == {"type": "int", "present": 6, "missing": 6, "min": 6, "max": 11}
    with (tmp_path / "summary.csv").open(newline="") as source:
        assert [row["column"] for row in csv.DictReader(source)] == ["age", "dose", "town", "late"]


def test_summary_suppresses_small_counts(tmp_path: Path) -> None:
    def of(values: list[str], *words: str) -> Any:
        return summarise(tmp_path, "x,id\n" + "".join(f"{value},1\n" for value in values), *words)

    few = {"type": None, "present": None, "missing": None, "min": None, "max": None}
    assert of(["1"] * 4) == (None, {"x": few, "id": few})
    assert of([])[0] == 0
    assert of(["1", "2", "NA", "", *["3"] * 6])[1]["x"] == {"type": "int", "present": None, "missing": None, "min": None, "max": None}
    assert of(["7", *["NA"] * 9])[1]["x"]["type"] is None
    assert of(["7", *["inf"] * 9])[1]["x"] == {"type": "float", "present": 10, "missing": 0, "min": None, "max": None}
    assert of(["1", "2"], "-k", "2")[1]["x"] == {"type": "int", "present": 2, "missing": 0, "min": 1, "max": 2}


def test_averaging(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folders = {name: tmp_path / name for name in ("server", "a", "b")}
    for folder in folders.values():
        folder.mkdir()
    server = subprocess.Popen(
        [sys.executable, "-u", SCRIPTS / "averaging_server.py", "--clients", "2"], cwd=folders["server"], env={"PORT_8080": port},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stdout.readline() == "waiting for 2 clients\n"
    socket.create_connection(("127.0.0.1", int(port))).close()  # somebody only looks whether it listens
    clients = [
        subprocess.Popen(
            [sys.executable, SCRIPTS / "averaging_client.py", "127.0.0.1", port, f"--value={value}"],
            cwd=folders[name], env={"NODE_NAME": name}, stdout=subprocess.DEVNULL,
        )
        for name, value in (("a", 1), ("b", -4))
    ]  # fmt: skip
    assert [process.wait(SOON) for process in (*clients, server)] == [0, 0, 0]
    server.stdout.close()
    assert json.loads((folders["server"] / "mean.json").read_text()) == {"mean": -1.5, "nodes": ["a", "b"]}
    assert json.loads((folders["a"] / "result.json").read_text()) == {"mean": -1.5, "clients": 2}
