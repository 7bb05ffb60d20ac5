"""A catalogue's folder: `tools/` and `nodes/`, one file each. All that is wrong with all files is told at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from federation.catalogue import legacy
from federation.catalogue.check import problems
from federation.catalogue.document import CatalogueError, Document
from federation.catalogue.node import NodeEntry
from federation.catalogue.tool import Tool
from federation.nearest import unknown

Found = TypeVar("Found")

#: Bytes of the files that go with a tool, together: they stand in its document. Larger ones belong into an image or a repository.
LARGEST_FILES = 1024**2
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Catalogue:
    """All that a folder says, by name. `warnings` are about existing FEM documents: what of them has no place here."""

    tools: dict[str, Tool]
    nodes: dict[str, NodeEntry]
    warnings: tuple[str, ...] = ()


def load(folder: Path) -> Catalogue:
    """Read a folder. CatalogueError with every problem of every file, none of which may be left."""
    if not (folder / "tools").is_dir() and not (folder / "nodes").is_dir():
        raise CatalogueError([f"{folder}: no catalogue, since it has neither tools/ nor nodes/"])
    wrong: list[str] = []
    warnings: list[str] = []
    tools = _once(_collect(_files(folder / "tools"), lambda paths: _tools(paths, warnings), wrong), "tool", lambda tool: tool.name, wrong)
    nodes = _once(_collect(_files(folder / "nodes"), lambda paths: _nodes(paths, warnings), wrong), "node", lambda node: node.id, wrong)
    if wrong:
        raise CatalogueError(wrong)
    return Catalogue(tools, nodes, tuple(warnings))


def load_tool(path: Path) -> Tool:
    """The one tool of a YAML file, or of existing FEM documents in JSON."""
    found = load_tools([path])[0]
    if len(found) != 1:
        raise CatalogueError([f"{path}: holds {len(found)} tools ({', '.join(tool.name for tool in found) or 'none'}), and one is wanted"])
    return found[0]


def load_tools(paths: Sequence[Path]) -> tuple[list[Tool], list[str]]:
    """The tools of some files, with warnings; existing documents in JSON may refer to each other."""
    warnings: list[str] = []
    wrong: list[str] = []
    groups = [[path for path in paths if path.suffix == ".json"], *([path] for path in paths if path.suffix != ".json")]
    found = _collect([group for group in groups if group], lambda group: _tools(group, warnings), wrong)
    tools = _once(found, "tool", lambda tool: tool.name, wrong)
    if wrong:
        raise CatalogueError(wrong)
    return list(tools.values()), warnings


def _files(folder: Path) -> list[list[Path]]:
    """The files in groups that are read together: every YAML file alone, all JSON files as one."""
    paths = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES and not path.name.startswith("."))
    old = [path for path in paths if path.suffix == ".json"]
    return [*([path] for path in paths if path not in old), *([old] if old else [])]


def _collect(
    groups: Iterable[Sequence[Path]], read: Callable[[Sequence[Path]], list[tuple[Path, Found]]], wrong: list[str]
) -> list[tuple[Path, Found]]:
    found: list[tuple[Path, Found]] = []
    for group in groups:
        try:
            found += read(group)
        except CatalogueError as error:
            wrong += error.problems
    return found


def _once(found: Sequence[tuple[Path, Found]], what: str, name_of: Callable[[Found], str], wrong: list[str]) -> dict[str, Found]:
    places: dict[str, Path] = {}
    by_name: dict[str, Found] = {}
    for path, entry in found:
        name = name_of(entry)
        if name in places:
            wrong.append(f"{path}: {what} {name!r} stands in {places[name]}, too (give one of them another id, or remove it)")
        places.setdefault(name, path)
        by_name.setdefault(name, entry)
    return dict(sorted(by_name.items()))


def _tools(paths: Sequence[Path], warnings: list[str]) -> list[tuple[Path, Tool]]:
    if paths[0].suffix == ".json":
        return _legacy(paths, warnings)
    document = Document(paths[0])
    if isinstance(document.data, dict) and "contents" in document.data:
        raise document.error("unknown key (the files themselves go beside this one, see `files`)", ("contents",))
    tool = document.build(Tool)
    if wrong := [document.told(place, message) for place, message in problems(tool)]:
        raise CatalogueError(wrong)
    return [(paths[0], tool.model_copy(update={"contents": _contents(tool, document)}))]


def _legacy(paths: Sequence[Path], warnings: list[str]) -> list[tuple[Path, Tool]]:
    found, notes = legacy.tools([(path, Document(path).data) for path in paths])
    warnings += notes
    if wrong := [f"{path}: {tool.name}.{'.'.join(map(str, place))}: {why}" for path, tool in found for place, why in problems(tool)]:
        raise CatalogueError(wrong)
    return found


def _nodes(paths: Sequence[Path], warnings: list[str]) -> list[tuple[Path, NodeEntry]]:
    if paths[0].suffix != ".json":
        return [(paths[0], Document(paths[0]).build(NodeEntry))]
    found, notes = legacy.nodes([(path, Document(path).data) for path in paths])
    warnings += notes
    return found


def _contents(tool: Tool, document: Document) -> dict[str, bytes]:
    """Path -> content of the files that its tasks name."""
    folder = document.path.parent
    contents: dict[str, bytes] = {}
    wrong: list[str] = []
    for index, task in enumerate(tool.tasks):
        for name, path in task.files.items():
            place = ("tasks", index, "files", name)
            file = folder / path
            if not file.is_file():
                near = unknown(path, (other.relative_to(folder).as_posix() for other in folder.rglob("*") if other.is_file()), "there are")
                wrong.append(document.told(place, f"there is no file {path} beside this one" + (f" ({near})" if near else "")))
            elif not file.resolve().is_relative_to(folder.resolve()):
                wrong.append(document.told(place, f"{path} is a link that leads out of the folder"))
            elif file.stat().st_size + sum(map(len, contents.values())) > LARGEST_FILES:
                wrong.append(document.told(place, "the tool's files are larger than 1 MiB (put them into an image or a repository)"))
            else:
                contents[path] = file.read_bytes()
    if wrong:
        raise CatalogueError(wrong)
    return contents


def as_yaml(tool: Tool, schema: str) -> str:
    """The tool as a file of the catalogue. `schema` is the path of its JSON Schema as seen from there."""
    import yaml

    data = json.loads(tool.model_dump_json(exclude_defaults=True, exclude={"contents"}))
    return f"# yaml-language-server: $schema={schema}\n" + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=140)
