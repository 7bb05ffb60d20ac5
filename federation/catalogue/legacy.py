"""Existing FEM documents (JSON): tools, their task templates and hosts, as they are, odd spots included.

What a document says that has no place here is left out with a warning. A tool may hold its task templates, or name them
by `task_id` among the other documents; a task template that no tool names is a tool of one task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from federation.catalogue.document import CatalogueError, explained
from federation.catalogue.node import NodeEntry, node_id
from federation.catalogue.placeholders import below_data
from federation.catalogue.tool import Image, Tool, hosts
from federation.nearest import unknown

Found = TypeVar("Found", Tool, NodeEntry)
Json = dict[str, Any]
Warn = Callable[[str], None]

TYPES = {
    **dict.fromkeys(("str", "string", "text"), "str"), **dict.fromkeys(("int", "integer"), "int"),
    **dict.fromkeys(("float", "double", "number"), "float"), **dict.fromkeys(("bool", "boolean"), "bool"),
}  # fmt: skip
#: Of a host, what the site's own settings say today.
OF_THE_SITE = (
    *("accessible_via", "launchers", "image_pull_policy", "sandbox_root_dir", "sandbox_persistent", "local_data_root_dir", "whitelist_ip"),
    *("tools", "status", "health_data"),
)  # fmt: skip
_IDS = ("_id", "task_id", "id", "name")
_DIGEST = re.compile(r"^(?:sha256:)?([0-9a-f]{64})$")
_SANDBOX = re.compile(r"^\$(?:\{SANDBOX_PATH\}|SANDBOX_PATH)(?:/|$)")
#: Bytes below which a number for memory must be meant in some other unit.
LEAST_MEMORY = 6 * 1024**2


def tools(files: Sequence[tuple[Path, Any]]) -> tuple[list[tuple[Path, Tool]], list[str]]:
    """The tools of some files with their files, and warnings. CatalogueError with all that is wrong."""
    documents = list(_documents(files))
    tasks = {str(name): document for _, document in documents if "tasks" not in document for name in _names(document)}
    used: set[int] = set()
    reading = _Reading()
    found = [(path, reading.tool(path, document, tasks, used)) for path, document in documents if "tasks" in document]
    found += [
        (path, reading.tool(path, document | {"tasks": [document]}, tasks, used))
        for path, document in documents
        if "tasks" not in document and id(document) not in used
    ]  # fmt: skip
    return reading.done(found)


def nodes(files: Sequence[tuple[Path, Any]]) -> tuple[list[tuple[Path, NodeEntry]], list[str]]:
    """The hosts of some files."""
    reading = _Reading()
    return reading.done([(path, reading.node(path, document)) for path, document in _documents(files)])


def _documents(files: Sequence[tuple[Path, Any]]) -> Iterator[tuple[Path, Json]]:
    """Each object of each file, without its empty fields."""
    for path, data in files:
        for document in data if isinstance(data, list) else [data]:
            if not isinstance(document, dict):
                raise CatalogueError([f"{path}: must hold objects, and holds {str(document)[:60]!r}"])
            yield path, _present(document)


def _present(document: Json) -> Json:
    return {key: value for key, value in document.items() if value is not None}


def _names(document: Json) -> Iterator[str]:
    for key in _IDS:
        if key in document:
            yield _plain_id(document[key])


def _plain_id(value: Any) -> str:
    """An id as a database exports it: {"$oid": "..."}."""
    return str(value.get("$oid", value)) if isinstance(value, dict) else str(value)


class _Reading:
    """What was wrong and what was left out, of all documents together."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.warnings: list[str] = []

    def done(self, found: Sequence[tuple[Path, Found | None]]) -> tuple[list[tuple[Path, Found]], list[str]]:
        if self.wrong:
            raise CatalogueError(self.wrong)
        return [(path, entry) for path, entry in found if entry is not None], self.warnings

    def tool(self, path: Path, document: Json, tasks: Mapping[str, Json], used: set[int]) -> Tool | None:
        name = str(document.get("name") or next(_names(document), path.stem))
        place = f"{path}: tool {name}"
        fields = _tool_fields(document, name, lambda what: self.warnings.append(f"{place}: {what}"))
        fields["tasks"] = []
        for entry in document["tasks"] if isinstance(document["tasks"], list) else [document["tasks"]]:
            # some list the ids alone
            entry = _present(entry) if isinstance(entry, dict) else {"task_id": entry}
            named = next((task for id_ in _names(entry) if (task := tasks.get(id_)) is not None), None)
            if named is None and "command" not in entry:
                id_ = next(_names(entry), "without an id")
                self.wrong.append(
                    f"{place}: task {id_} is not among the documents ({unknown(id_, tasks) or 'there are no task templates'})"
                )
                continue
            used.add(id(named))
            whole = (named or {}) | entry
            where = f"{place}, task {whole.get('name', next(_names(whole), ''))}"
            fields["tasks"].append(_task_fields(whole, lambda what, where=where: self.warnings.append(f"{where}: {what}")))  # type: ignore[misc]
        return self._build(Tool, fields, place) if len(fields["tasks"]) else None

    def node(self, path: Path, document: Json) -> NodeEntry | None:
        name = str(document.get("name") or next(_names(document), path.stem))
        place = f"{path}: node {name}"
        same = {key: document[key] for key in NodeEntry.model_fields if key in document and key != "id"}
        if left := sorted(set(document) & set(OF_THE_SITE)):
            self.warnings.append(f"{place}: {', '.join(left)} left out: the site's own settings say that")
        if left := sorted(set(document) - set(OF_THE_SITE) - set(same) - {"_id", "id", "name"}):
            self.warnings.append(f"{place}: {', '.join(left)} left out: unknown")
        return self._build(NodeEntry, {"display_name": name} | same | {"id": node_id(name)}, place)

    def _build(self, model: type[Found], fields: Json, place: str) -> Found | None:
        try:
            return model.model_validate(fields)
        except ValidationError as error:
            self.wrong += [f"{place}: {'.'.join(map(str, at))}: {why}" for at, why in explained(error, model, fields)]
            return None


def _tool_fields(document: Json, name: str, warn: Warn) -> Json:
    fields: Json = {"name": node_id(name)[:63], "title": str(document.get("title", name))}
    fields |= {key: str(document[key]) for key in ("version", "author", "description", "plan_type") if key in document}
    visibility = str(document.get("visibility", "public")).lower()
    projects = document.get("projects", ())
    if visibility not in ("public", "project", "private") or (visibility == "project" and not projects):
        warn(f"visibility {visibility!r} names no projects: private until `visibility` and `projects` say otherwise")
        visibility = "private"
    if "tasks" in document and "command" not in document and (left := _unknown(document, ("title", *_IDS, *Tool.model_fields))):
        warn(f"{left} left out: unknown")
    return fields | {"visibility": visibility, "projects": projects}


def _unknown(document: Json, known: Iterable[str]) -> str:
    return ", ".join(sorted(set(document) - set(known)))


def _task_fields(document: Json, warn: Warn) -> Json:
    """A task template in the words of TaskTemplate."""
    fields: Json = {"id": node_id(str(document.get("name") or next(_names(document), "main")))[:63]}
    for key, read in _READERS.items():
        if key in document and document[key] not in ("", [], {}):
            try:
                fields |= read(document[key], warn)
            except (AttributeError, TypeError, ValueError):  # it was no such list or object as the reader takes it for
                warn(f"{key} left out: {str(document[key])[:80]!r} is of a form that nobody knows")
    if "arguments" in document and "command" in fields and not fields["command"]["args"]:
        fields["command"]["args"] = _args(document["arguments"], warn)
    needs = {key: made for key, read in _RESOURCES.items() if key in document and (made := read(document[key], warn)) is not None}
    same = {key: document[key] for key in ("timeout", "network", "datasets", "listen_within") if key in document}
    if document.get("inputs"):
        warn("inputs left out: name datasets, or files beside the tool")
    of_tool = (*_IDS, "tasks", "arguments", "inputs", *Tool.model_fields)
    if left := _unknown(document, (*of_tool, *_READERS, *_RESOURCES, *same)):
        warn(f"{left} left out: unknown")
    return fields | same | ({"resources": needs} if needs else {})


def _image(value: Any, warn: Warn) -> Json:
    value = Image.parse(value) if isinstance(value, str) else _present(value)
    if "digest" not in value and (hash_ := str(value.get("hash", ""))):
        if found := _DIGEST.match(hash_):
            value["digest"] = f"sha256:{found[1]}"
        else:
            warn(f"image.hash {hash_[:80]!r} left out: it is no SHA-256")
    if not value.get("tag") and ":" in str(value.get("name", "")):
        value |= Image.parse(value["name"])
    return {"image": {key: str(value[key]) for key in Image.model_fields if value.get(key)}}


def _command(value: Any, warn: Warn) -> Json:
    if not isinstance(value, dict):
        return {"command": {"base": value, "args": []}}
    return {"command": {"base": value.get("base") or (), "args": _args(value.get("args") or [], warn)}}


def _args(value: Any, warn: Warn) -> list[Json]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        warn("arguments left out: they are no list of objects")
        return []
    return [_argument(_present(item), warn) for item in value]


def _argument(given: Json, warn: Warn) -> Json:
    name = str(given.get("id", ""))
    kind = TYPES.get(str(given.get("type", "str")).lower())
    if kind is None:
        warn(f"argument {name}: type {given['type']!r} is unknown, and taken as str")
    made: Json = {"id": name, "type": kind or "str", "prefix": str(given.get("prefix", ""))}
    made |= {key: _yes(given[key]) for key in ("separate", "required") if key in given}
    made |= {key: given[key] for key in ("description", "choices") if key in given}
    if "position" in given and given["position"] != "":
        made["position"] = given["position"]
    default = given.get("default", given.get("default_value"))
    # an empty text is how forms say "none" of a number
    if default is not None and not (default == "" and made["type"] != "str"):
        made["default"] = default
    if left := _unknown(given, (*made, "id", "position", "default_value", "default")):
        warn(f"argument {name}: {left} left out: unknown")
    return made


def _yes(value: Any) -> bool:
    return value.strip().lower() in ("true", "yes", "1") if isinstance(value, str) else bool(value)


def _environment(value: Any, _: Warn) -> Json:
    if isinstance(value, dict):
        return {"environment": {key: "" if each is None else each for key, each in value.items()}}
    pairs = [
        item.partition("=")[::2] if isinstance(item, str) else (item.get("name", item.get("key")), item.get("value", "")) for item in value
    ]
    return {"environment": dict(pairs)}


def _volumes(value: Any, warn: Warn) -> Json:
    volumes = []
    for item in value:
        host, _, container = item.partition(":") if isinstance(item, str) else (item.get("host_path"), "", item.get("container_path"))
        container = str(container or "").partition(":")[0]
        if host and container.startswith("/"):
            volumes.append({"host_path": host, "container_path": container})
        else:
            warn(f"volume {item} left out: it needs a host_path, and a container_path that begins with /")
    return {"volumes": volumes}


def _ports(value: Any, _warn: Warn) -> Json:
    ports = []
    for item in value:
        if isinstance(item, dict):
            ports.append({key: item[key] for key in ("container_port", "host_port") if item.get(key)})
        else:
            host, _, container = str(item).rpartition(":")
            ports.append({"container_port": container} | ({"host_port": host} if host else {}))
    return {"ports": ports}


def _outputs(value: Any, warn: Warn) -> Json:
    """{model_dir, move_to}: the folder's files come back, and the node keeps a copy on a shelf of its own."""
    if not isinstance(value, dict):
        listed = value if isinstance(value, list) else [value]
        return {"outputs": [_in_sandbox(str(item.get("path", "") if isinstance(item, dict) else item)) for item in listed]}
    if left := _unknown(value, ("model_dir", "move_to")):
        warn(f"outputs.{left} left out: unknown")
    folder = _in_sandbox(str(value.get("model_dir") or ""))
    if folder.startswith("/"):
        warn(f"outputs.model_dir {folder!r} left out: write a folder below $SANDBOX_PATH")
        return {}
    made: Json = {"outputs": [f"{folder}/**" if folder else "**"]} if "model_dir" in value else {}
    shelf, _, to = str(value.get("move_to") or "").strip("/$").partition("/")
    if shelf and not str(value["move_to"]).startswith("/"):
        made["move_to"] = [{"source": folder, "shelf": node_id(shelf), "to": to or "%%execution_id%%"}]
    elif shelf:
        warn(
            f"outputs.move_to {value['move_to']!r} left out: a path of the node's is its own matter; write SHELF/PATH, a shelf of its settings"
        )
    return made


def _in_sandbox(path: str) -> str:
    return re.sub(r"^\./", "", _SANDBOX.sub("", path)).rstrip("/")


def _checks(value: Any, warn: Warn) -> Json:
    checks = []
    for item in value if isinstance(value, list) else [value]:
        path = next((str(item[key]) for key in ("path", "file", "pattern") if key in item), "") if isinstance(item, dict) else str(item)
        below = below_data(path)
        if below and not below.startswith(("/", "$")):
            checks.append(below)
        else:
            warn(f"pre_check {item} left out: write a path below $DATA_PATH")
    return {"pre_checks": checks}


def _source(value: Any, _: Warn) -> Json:
    value = {"url": value} if isinstance(value, str) else _present(value)
    fields = {key: value[key] for key in ("url", "branch", "commit") if value.get(key)}
    return {"source": fields} if "url" in fields else {}


def _persistent(value: Any, _: Warn) -> Json:
    text = str(value).lower()
    return {"persistent": _yes(value) if text in ("true", "false", "yes", "no", "0", "1") else value}


def _memory(value: Any, warn: Warn) -> Any:
    if isinstance(value, int | float) and value < LEAST_MEMORY:
        warn(f"memory {value} left out: it is no number of bytes; write a size such as 4GB")
        return None
    return value


def _gpus(value: Any, warn: Warn) -> Any:
    if isinstance(value, list):
        return len(value)
    if isinstance(value, str) and not value.isdigit():
        warn(f"gpus {value!r} taken as 1: write how many")
        return 1
    return value


_READERS: dict[str, Callable[[Any, Warn], Json]] = {
    "image": _image, "command": _command, "var_envs": _environment, "volumes": _volumes, "port_mappings": _ports, "outputs": _outputs,
    "pre_checks": _checks, "source_code": _source, "persistent": _persistent,
    "host_list": lambda value, _: {"host_list": [name if name == "*" else node_id(name) for name in hosts(value)]},
    "single_node": lambda value, _: {"single_node": _yes(value)},
}  # fmt: skip
_RESOURCES: dict[str, Callable[[Any, Warn], Any]] = {
    "cpus": lambda value, _: value or None, "memory": _memory, "gpus": _gpus, "disk": lambda value, _: value,
}  # fmt: skip
