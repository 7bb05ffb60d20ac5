"""What the gateway remembers, on SQLite, and on PostgreSQL where it is installed; from several threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import uuid4

import pytest

from fdn_worker.protocol import now
from storage.gateway import TokenRow, UserRefused
from storage.records import Records


def a_token(digest: str, user: str = "anna", family: str = "", lasting: float = 60.0, kind: str = "refresh") -> TokenRow:
    return TokenRow(digest, kind, user, family or str(uuid4()), "", now(), now() + timedelta(seconds=lasting), None, None)


def test_users_are_written_once_and_changed(records: Records) -> None:
    users = records.gateway
    users.add_user("anna", "researcher", "hash", ["b", "a", "b"], by="ada")
    with pytest.raises(UserRefused, match="is there already"):
        users.add_user("anna", "administrator", None, by="ada")
    users.set_user("anna", role="auditor", projects=["c"], by="ada")
    found = users.user("anna")
    assert found is not None
    assert (found.role, found.password, found.projects, found.disabled) == ("auditor", "hash", frozenset("c"), None)
    assert users.users() == [found]
    users.set_user("anna", disabled=True, by="ada")
    assert users.users()[0].disabled is not None
    assert users.user("bert") is None


def test_of_many_who_turn_a_refresh_token_in_at_once_one_succeeds(records: Records) -> None:
    records.gateway.add_tokens(a_token("d1"))
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: records.gateway.use_once("d1"), range(8))) == 1


def test_a_family_ends_together_and_others_stay(records: Records) -> None:
    family = str(uuid4())
    records.gateway.add_tokens(a_token("d1", family=family), a_token("d2", family=family), a_token("d3"))
    records.gateway.revoke_family(family)
    found = [records.gateway.token(digest) for digest in ("d1", "d2", "d3")]
    assert [one is not None and one[0].good(now()) for one in found] == [False, False, True]
    records.gateway.refuse(a_token("d4", kind="foreign"))
    records.gateway.refuse(a_token("d4", kind="foreign"))
    [foreign] = [one[0] for one in [records.gateway.token("d4")] if one]
    assert not foreign.good(now())


def test_counts_add_up_and_are_forgotten(records: Records) -> None:
    with ThreadPoolExecutor(4) as pool:
        totals = list(pool.map(lambda _: records.gateway.count({"a": 2, "b": 1}, 7)["a"], range(10)))
    assert sorted(totals) == [2 * number for number in range(1, 11)]
    assert records.gateway.count({"b": 1}, 7) == {"b": 11}
    records.gateway.add_tokens(a_token("old", lasting=-60), a_token("new"))
    records.gateway.sweep(8, now())
    assert records.gateway.count({"b": 1}, 7) == {"b": 1}
    assert (records.gateway.token("old"), records.gateway.token("new") is not None) == (None, True)
