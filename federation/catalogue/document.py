"""A catalogue's file as data with lines, and what is wrong with it told as FILE:LINE: KEY: why."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from fdn_worker.errors import Fault, FdnError
from federation.request import FORMS

Model = TypeVar("Model", bound=BaseModel)
Place = tuple[str | int, ...]

#: Bytes of a catalogue's file.
LARGEST = 1024**2


class CatalogueError(FdnError):
    """Files of a catalogue are wrong; `problems` has a line for each."""

    code = "catalogue"
    fault = Fault.USER

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems:", *problems]))
        self.problems = tuple(problems)


class Document:
    """Data of a YAML or JSON file. CatalogueError where it cannot be read at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[Place, int] = {(): 1}
        try:
            if path.stat().st_size > LARGEST:
                raise self.error("is larger than 1 MiB, which no entry of a catalogue needs")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise self.error(error.strerror or "cannot be read") from error
        except UnicodeDecodeError as error:
            raise self.error("is not UTF-8 text") from error
        self.data: Any = self._json(text) if path.suffix == ".json" else self._yaml(text)

    def error(self, message: str, place: Place = ()) -> CatalogueError:
        """An error at a place of the file."""
        return CatalogueError([self.told(place, message)])

    def told(self, place: Place, message: str) -> str:
        """FILE:LINE: KEY: message."""
        line = next(self._lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self._lines)
        return f"{self.path}:{line}: {'.'.join(map(str, place))}{': ' if place else ''}{message}"

    def holds(self, place: Place) -> bool:
        """Whether the file says something there."""
        return place in self._lines

    def build(self, model: type[Model]) -> Model:
        """The model of the data; CatalogueError names each wrong key."""
        if not isinstance(self.data, dict):
            raise self.error("holds no keys" if self.data is None else "must be keys with values")
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            raise CatalogueError([self.told(*found) for found in explained(error, model, self.data)]) from error

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise CatalogueError([f"{self.path}:{error.lineno}: {error.msg}"]) from error
        except RecursionError as error:
            raise self.error("is nested too deep") from error

    def _yaml(self, text: str) -> Any:
        try:
            loader = yaml.SafeLoader(text)
            root = loader.get_single_node()
            if root is None:
                return None
            self._note(root, (), [], set())
            return loader.construct_document(root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = f":{mark.line + 1}" if mark else ""
            raise CatalogueError([f"{self.path}{at}: {error.problem or error.context} (is it half edited?)"]) from error
        except yaml.YAMLError as error:
            raise self.error(str(error).splitlines()[0]) from error
        except (RecursionError, ValueError) as error:
            raise self.error("cannot be read as YAML: " + (str(error) or "it is nested too deep")) from error

    def _note(self, node: yaml.Node, place: Place, above: list[yaml.Node], seen: set[int]) -> None:
        """Remember the line of every key. What YAML would take silently is an error: a key that stands twice, an alias of what it stands in."""
        if node in above:
            raise self.error("an alias refers to what it stands in: a circular reference", place)
        if id(node) in seen:
            return
        seen.add(id(node))
        above = [*above, node]
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines.setdefault((*place, index), item.start_mark.line + 1)
                self._note(item, (*place, index), above, seen)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                at = (*place, key.value if isinstance(key.value, str) else "?")
                if at in self._lines and key.tag != "tag:yaml.org,2002:merge":
                    raise CatalogueError(
                        [f"{self.path}:{key.start_mark.line + 1}: {'.'.join(map(str, at))}: stands twice (is it half edited?)"]
                    )
                self._lines[at] = key.start_mark.line + 1
                self._note(value, at, above, seen)


def explained(error: ValidationError, model: type[BaseModel], data: Any) -> Iterator[tuple[Place, str]]:
    """Each of pydantic's errors: its place in the data, and what is wrong there."""
    for item in error.errors():
        place = tuple(_real(item["loc"], data, item["type"]))
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(place[-1]), _keys(model, place[:-1]), n=1)
            yield place, "unknown key" + (f", did you mean {near[0]}?" if near else "")
        elif item["type"] == "missing":
            yield place, "is required"
        elif item["type"] == "too_short":
            # pydantic says it of a list whose items were wrong, too
            if not _at(data, place):
                yield place, "is empty, and needs at least one"
        elif item["type"] == "string_pattern_mismatch":
            pattern = item["ctx"]["pattern"]
            yield place, f"{str(item['input'])[:80]!r} is not allowed ({FORMS.get(pattern, 'it must match ' + pattern)})"
        elif item["type"] == "string_type" and isinstance(item["input"], int | float):
            yield place, f"{item['input']} is a number (write it in quotes)"
        else:
            yield place, str(item["msg"]).removeprefix("Value error, ")


def _real(location: Iterable[str | int], data: Any, kind: str) -> Iterator[str | int]:
    """The parts of pydantic's location that are in the data: it also names the members of unions."""
    parts = list(location)
    for index, part in enumerate(parts):
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int) and part < len(data)
        if inside:
            yield part
            data = data[part]
        elif kind == "missing" and index == len(parts) - 1:
            yield part


def _at(data: Any, place: Place) -> Any:
    for part in place:
        data = data[part]
    return data


def _keys(model: type[BaseModel], place: Place) -> list[str]:
    """The keys that may stand there."""
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            inner = next(_models(model.model_fields[part].annotation), None)
            if inner is None:
                return []
            model = inner
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
