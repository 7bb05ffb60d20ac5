"""Finding a tool by its name in the records, or by the path of its file; and a node by its id or display name."""

from __future__ import annotations

from pathlib import Path

from federation.catalogue.document import CatalogueError
from federation.catalogue.folder import SUFFIXES, load_tool
from federation.catalogue.node import node_id
from federation.catalogue.tool import Tool
from federation.nearest import unknown
from federation.request import BadRequest
from storage.records import Records


def is_path(name: str) -> bool:
    """Whether a tool is named by its file."""
    return name.endswith(SUFFIXES) or "/" in name


def find_tool(records: Records, name_or_path: str) -> Tool:
    """The tool of that name, as it was synced last; or that of a file. Names are taken as existing clients write them, too."""
    if is_path(name_or_path):
        path = Path(name_or_path)
        if not path.is_file():
            raise CatalogueError([f"{path}: there is no such file"])
        return load_tool(path)
    row = records.catalogue.tool(name_or_path) or records.catalogue.tool(node_id(name_or_path))
    if row is None or row.withdrawn is not None:
        names = [tool.name for tool in records.catalogue.tools()]
        gone = row is not None
        raise BadRequest(
            f"tool {name_or_path!r} {'was withdrawn' if gone else 'is unknown'}", code="unknown-tool",
            remedy=unknown(node_id(name_or_path), names) or "there are none yet: `fem sync` brings them, or name a YAML file",
        )  # fmt: skip
    return Tool.model_validate_json(row.document)


def find_node(records: Records, name: str) -> str:
    """The id of an enrolled node, from its id or its display name, in whatever case."""
    rows = [row for row in records.nodes() if row.retired is None]
    ids = {row.name for row in rows}
    for wanted in (name, node_id(name)):
        if wanted in ids:
            return wanted
    shown = {row.display_name.lower(): row.name for row in rows}
    if name.lower() in shown:
        return shown[name.lower()]
    raise BadRequest(f"node {name!r} is not enrolled", code="unknown-node", remedy=unknown(node_id(name), ids) or "there are none yet")
