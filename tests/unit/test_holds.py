"""What an attempt has of its node for itself: given once, kept, and given back."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import Fault, SystemFault
from fdn_worker.holds import Hold, Holds, bind_address, kept_as
from fdn_worker.journal import Journal, Phase
from fdn_worker.protocol import Endpoint, Port, Signer, State, TaskOrder, pack
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.settings import WorkerSettings
from tests.support.ports import free_ports
from tests.unit.helpers import an_order, settings


@pytest.fixture
def ports() -> tuple[int, int]:
    """Two that are free, one after the other."""
    return free_ports(2, begin=24000)


@pytest.fixture
def site(tmp_path: Path, ports: tuple[int, int]) -> WorkerSettings:
    return settings(tmp_path, address="127.0.0.1", ports=f"{ports[0]}-{ports[1]}", keep_sandboxes=True)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", Signer())
    yield journal
    journal.close()


@pytest.fixture
def holds(site: WorkerSettings, journal: Journal) -> Holds:
    return Holds(site, journal)


def received(journal: Journal, task: str, **changes: Any) -> TaskOrder:
    order = an_order(task=task, **changes)
    journal.receive(order, payload_of(pack(order, Signer())))
    return order


def refused(holds: Holds, order: TaskOrder) -> str:
    with pytest.raises(SystemFault) as caught:
        holds.take(order)
    assert caught.value.fault is Fault.INFRASTRUCTURE
    assert caught.value.retryable
    assert holds.of(order.name) is None
    return caught.value.code


ONE = (Port(container=80),)


def test_each_has_a_port_of_its_own_and_keeps_it(holds: Holds, site: WorkerSettings, journal: Journal, ports: tuple[int, int]) -> None:
    first, second, third = (received(journal, task, ports=ONE) for task in ("a", "b", "c"))
    assert holds.take(first) == Hold({80: ports[0]}, False)
    assert holds.take(second) == Hold({80: ports[1]}, False)
    assert refused(holds, third) == "no-port"
    assert Holds(site, journal).take(first) == Hold({80: ports[0]}, False)
    journal.record(first.name, phase=Phase.EXITED)
    assert holds.take(third).ports == {80: ports[0]}


def test_a_port_with_a_number_goes_before_a_free_choice(holds: Holds, journal: Journal, ports: tuple[int, int]) -> None:
    both = received(journal, "a", ports=(Port(container=80), Port(container=81, host=ports[0])))
    assert holds.take(both).ports == {80: ports[1], 81: ports[0]}
    assert refused(holds, received(journal, "b", ports=(Port(container=1, host=ports[1]),))) == "port-taken"


def test_what_another_program_listens_on_is_taken(holds: Holds, journal: Journal, ports: tuple[int, int]) -> None:
    with socket.create_server(("127.0.0.1", ports[0])):
        assert refused(holds, received(journal, "a", ports=(Port(container=80, host=ports[0]),))) == "port-taken"
        assert holds.take(received(journal, "b", ports=ONE)).ports == {80: ports[1]}


def test_that_all_is_open_is_told_once(holds: Holds, journal: Journal, ports: tuple[int, int]) -> None:
    order = received(journal, "a", ports=ONE)
    holds.take(order)
    journal.record(order.name, listening=[Endpoint(port=80, host="here", published=ports[0])])
    assert holds.of(order.name) == Hold({80: ports[0]}, True)
    assert [message_id for _, message_id, _ in journal.pending()] == [f"{order.run}.1.1"]


@pytest.mark.parametrize(("phase", "free"), [(Phase.STARTED, False), (Phase.EXITED, False), (Phase.UPLOADED, True), (Phase.DONE, True)])
def test_a_sandbox_is_one_attempts_until_its_files_are_away(holds: Holds, journal: Journal, phase: Phase, free: bool) -> None:
    first, second = (received(journal, task, sandbox="cache") for task in ("a", "b"))
    holds.take(first)
    journal.record(first.name, phase=phase)
    if free:
        assert holds.take(second) == Hold({}, False)
    else:
        assert refused(holds, second) == "sandbox-busy"


def test_a_user_reaches_no_other_users_sandbox(holds: Holds, tmp_path: Path) -> None:
    ada, bob, nasty = ({"labels": {"user": user}, "sandbox": "cache"} for user in ("ada", "bob", "../ada"))
    folders = {holds.folder(an_order(**fields)).sandbox for fields in (ada, bob, nasty)}
    assert len(folders) == 3
    assert {folder.parents[2] for folder in folders} == {tmp_path / "kept"}
    assert kept_as(an_order()) is None
    assert holds.folder(an_order()).sandbox == tmp_path / "runs" / an_order().name / "sandbox"


def test_the_sweep_takes_what_is_old_and_in_nobodys_use(holds: Holds, journal: Journal, tmp_path: Path) -> None:
    names = ("old", "used", "young")
    orders = {name: received(journal, name, sandbox=name) for name in names}
    for name, order in orders.items():
        holds.folder(order).make()
        (holds.folder(order).sandbox / "file").touch()
        if name != "young":
            os.utime(holds.folder(order).sandbox.parent, (time.time() - 40 * 86400,) * 2)
    holds.take(orders["used"])
    half = holds.folder(orders["old"]).sandbox.parent.with_name(".gone")
    half.mkdir()
    holds.sweep()
    assert not half.exists()
    assert {path.name for path in (tmp_path / "kept").glob("*/*")} == {"used", "young"}


def test_removing_the_attempt_leaves_its_kept_sandbox(holds: Holds) -> None:
    folder = holds.folder(an_order(sandbox="cache"))
    folder.make()
    folder.remove()
    assert not folder.root.exists()
    assert folder.sandbox.is_dir()


def test_ports_are_published_at_one_address_of_this_machine(tmp_path: Path) -> None:
    assert bind_address(settings(tmp_path, address="127.0.0.1", ports="20000-20001")) == "127.0.0.1"
    assert bind_address(settings(tmp_path, address="no-such-host.invalid", bind="0.0.0.0", ports="20000-20001")) == "0.0.0.0"
    for address in ("192.0.2.1", "no-such-host.invalid"):
        with pytest.raises(SystemFault, match=f"ports cannot be published at {address}") as caught:
            bind_address(settings(tmp_path, address=address, ports="20000-20001"))
        assert caught.value.code == "address-unusable"


def test_a_journal_of_before_is_taken_over_and_one_of_now_is_read_by_who_came_before(tmp_path: Path, site: WorkerSettings) -> None:
    journal = Journal(tmp_path / "old.db", Signer())
    order = received(journal, "a", ports=ONE)
    journal.close()
    with sqlite3.connect(tmp_path / "old.db") as old:
        columns = {row[1] for row in old.execute("PRAGMA table_info(runs)")}
        assert "ports" not in columns
        assert old.execute("PRAGMA user_version").fetchone() == (1,)
        old.execute("DROP TABLE holds")
    old.close()
    journal = Journal(tmp_path / "old.db", Signer())
    entry = journal.entry(order.name)
    assert entry is not None
    assert entry.state is State.QUEUED
    assert Holds(site, journal).take(order).ports
    journal.close()
