"""Making the federation match a catalogue's folder: nodes enrolled, changed or retired, tools added, changed or withdrawn.

The difference is found first, from the whole folder and the whole records; only then is anything done. Each step may be
taken again, so a sync that was cut off is mended by the next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from federation import bundle
from federation.catalogue.folder import Catalogue
from federation.catalogue.node import NodeEntry
from federation.catalogue.tool import Tool
from federation.centre import Centre
from federation.enrol import enrol, retire
from federation.management import Management
from storage.catalogue import ToolRow
from storage.records import NodeRow

Action = Literal["enrol", "change", "retire", "await", "add", "withdraw"]
SIGNS: Mapping[Action, str] = {"enrol": "+", "add": "+", "change": "~", "retire": "-", "withdraw": "-", "await": "!"}


@dataclass(frozen=True)
class Step:
    """One difference between folder and federation."""

    action: Action
    kind: Literal["node", "tool"]
    name: str
    #: What of it changes, or why nothing is done yet.
    detail: str = ""

    def __str__(self) -> str:
        return f"{SIGNS[self.action]} {self.action} {self.kind} {self.name}{f' ({self.detail})' if self.detail else ''}"

    @property
    def counts(self) -> bool:
        """Whether it changes the federation: a node that waits for its key does not."""
        return self.action != "await"


def difference(catalogue: Catalogue, nodes: Sequence[NodeRow], tools: Sequence[ToolRow], *, keys: bool) -> list[Step]:
    """What there is to do, nodes first. `keys`: a node is enrolled once the folder has its public key, and waits until then.

    A folder without any node says nothing about nodes, and one without any tool nothing about tools: so one folder may hold
    these and another one those, and an empty checkout takes nothing away. Only what a sync enrolled is ever retired, never
    what an operator enrolled by hand.
    """
    return [
        *_of_nodes(catalogue.nodes, {row.name: row for row in nodes}, keys),
        *_of_tools(catalogue.tools, {row.name: row for row in tools}),
    ]


def _of_nodes(wanted: Mapping[str, NodeEntry], there: Mapping[str, NodeRow], keys: bool) -> Iterator[Step]:
    for name, entry in wanted.items():
        row = there.get(name)
        if keys and not entry.public_key:
            yield Step("await", "node", name, "its public key is not in the folder yet")
        elif row is None or row.retired is not None:
            yield Step("enrol", "node", name)
        elif row.document is None:
            yield Step("change", "node", name, "from now on by the folder")
        elif changed := _changed(row.document, document(entry)):
            yield Step("change", "node", name, changed)
    if wanted:
        for name, row in there.items():
            if row.retired is None and row.document is not None and name not in wanted:
                yield Step("retire", "node", name, "its queues go, with the orders that wait there")


def _of_tools(wanted: Mapping[str, Tool], there: Mapping[str, ToolRow]) -> Iterator[Step]:
    for name, tool in wanted.items():
        row = there.get(name)
        if row is None or row.withdrawn is not None:
            yield Step("add", "tool", name, f"version {tool.version}" if tool.version else "")
        elif changed := _changed(row.document, document(tool)):
            yield Step("change", "tool", name, changed)
    if wanted:
        for name, row in there.items():
            if row.withdrawn is None and name not in wanted:
                yield Step("withdraw", "tool", name)


def document(entry: NodeEntry | Tool) -> str:
    """As it stands in the records."""
    return entry.model_dump_json()


def _changed(before: str, after: str) -> str:
    """The keys whose values differ."""
    old, new = _parsed(before), _parsed(after)
    return ", ".join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))


def _parsed(text: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def differing(centre: Centre, catalogue: Catalogue) -> list[Step]:
    """The difference between the folder and this federation as it is now."""
    records = centre.records
    return difference(catalogue, records.nodes(), records.catalogue.tools(withdrawn=True), keys=not centre.settings.embedded)


def carry_out(centre: Centre, catalogue: Catalogue, steps: Sequence[Step]) -> None:
    """Do what `differing` found. A node's bundle is written with its enrolment, and already while its key is waited for."""
    management = Management.of(centre.settings)
    for step in steps:
        if step.kind == "tool":
            _of_tool(centre, catalogue, step)
        elif step.action == "retire":
            retire(centre.broker, centre.records, step.name, management=management)
            centre.records.catalogue.put_node(step.name, None)
        else:
            bundle.write(centre.settings, step.name)
            if step.action != "await":
                entry = catalogue.nodes[step.name]
                password = enrol(
                    centre.broker, centre.records, entry.id,
                    public_key=entry.public_key, display_name=entry.display_name, management=management,
                )  # fmt: skip
                if password:
                    bundle.write(centre.settings, entry.id, password=password)
                centre.records.catalogue.put_node(entry.id, document(entry))


def _of_tool(centre: Centre, catalogue: Catalogue, step: Step) -> None:
    if step.action == "withdraw":
        centre.records.catalogue.withdraw_tool(step.name)
    else:
        centre.records.catalogue.put_tool(step.name, document(catalogue.tools[step.name]))
