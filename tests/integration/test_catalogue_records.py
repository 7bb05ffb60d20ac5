"""The catalogue in the records, on SQLite and PostgreSQL: writes may be repeated, and say whether they changed anything."""

from __future__ import annotations

from storage.records import Records


def put(records: Records, name: str, document: str = "{}") -> bool:
    return records.catalogue.put_tool(name, document)


def test_tools_in_the_records(records: Records) -> None:
    catalogue = records.catalogue
    assert put(records, "b")
    assert put(records, "a")
    assert not put(records, "a")
    assert [row.name for row in catalogue.tools()] == ["a", "b"]
    first = catalogue.tool("a")
    assert put(records, "a", "[]")
    changed = catalogue.tool("a")
    assert first is not None
    assert changed is not None
    assert changed.changed > first.changed
    assert catalogue.withdraw_tool("a")
    assert not catalogue.withdraw_tool("a")
    assert not catalogue.withdraw_tool("never")
    assert [row.name for row in catalogue.tools()] == ["b"]
    assert [row.name for row in catalogue.tools(withdrawn=True)] == ["a", "b"]
    assert put(records, "a", "[]"), "taken back"
    assert [row.name for row in catalogue.tools()] == ["a", "b"]


def test_what_the_catalogue_says_of_a_node(records: Records) -> None:
    catalogue = records.catalogue
    records.enrol_node("site-a", public_key="")
    assert catalogue.put_node("site-a", "{}")
    assert not catalogue.put_node("site-a", "{}")
    assert not catalogue.put_node("nowhere", "{}")
    row = records.node("site-a")
    assert row is not None
    assert row.document == "{}"
    assert catalogue.put_node("site-a", None)
