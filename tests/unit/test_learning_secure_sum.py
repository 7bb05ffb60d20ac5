"""The secure sum: exact with whoever stays, nothing to be seen in between, and told when it cannot go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.learning.accumulator import PartialInfo
from federation.learning.aggregator import Linear, load
from federation.learning.models import ModelFile
from federation.learning.rounds import StreamingRound
from federation.learning.secure_partial import from_words, to_words
from federation.learning.secure_sum import (
    CHUNK,
    Revealed,
    SecureClient,
    SecureSumFailed,
    Words,
    add_mask,
    agreed,
    combine,
    from_fixed,
    sign,
    split,
    to_fixed,
    unmask,
)
from tests.unit import learning

ROUND = b"session 1, round 3"


@dataclass
class Server:
    """Passes on what clients hand it, and forgets nothing."""

    clients: Sequence[SecureClient]
    sealed: dict[str, dict[str, bytes]] = field(default_factory=dict)
    sent: dict[str, Words] = field(default_factory=dict)

    def share(self, lost: Sequence[str] = ()) -> None:
        """Steps 1 and 2; who is lost took the first alone."""
        self.keys = {client.name: client.keys() for client in self.clients}
        for client in self.clients:
            if client.name not in lost:
                for receiver, share in client.shares(self.keys).items():
                    self.sealed.setdefault(receiver, {})[client.name] = share
        self.shared = [client.name for client in self.clients if client.name not in lost]

    def send(self, vectors: Mapping[str, Words]) -> None:
        """Step 3, by those that have a vector."""
        for client in self.clients:
            if client.name in vectors:
                self.sent[client.name] = client.masked(vectors[client.name], self.sealed[client.name])

    def sum(self, answering: Sequence[str]) -> Words:
        """Step 4."""
        answers = {client.name: client.reveal(self.sent) for client in self.clients if client.name in answering}
        total = np.sum(list(self.sent.values()), axis=0, dtype=np.uint64)
        return unmask(total, self.keys, self.shared, self.sent, answers, self.clients[0].threshold, ROUND)


def federation(count: int, threshold: int) -> Server:
    return Server([SecureClient(f"c{number}", threshold, ROUND) for number in range(count)])


@settings(max_examples=25, deadline=None)
@given(data=st.data(), count=st.integers(2, 7))
def test_the_sum_is_exact_with_whoever_stays(data: st.DataObject, count: int) -> None:
    threshold = data.draw(st.integers(max(2, count // 2 + 1), count))
    names = [f"c{number}" for number in range(count)]

    def stay(of: Sequence[str]) -> list[str]:
        return sorted(data.draw(st.sets(st.sampled_from(of), min_size=threshold)))

    shared = stay(names)
    sent = stay(shared)
    answering = stay(sent)
    server = federation(count, threshold)
    server.share(lost=[name for name in names if name not in shared])
    rng = np.random.default_rng(count)
    vectors = {name: rng.integers(0, 2**64, size=9, dtype=np.uint64) for name in sent}
    server.send(vectors)
    np.testing.assert_array_equal(server.sum(answering), np.sum(list(vectors.values()), axis=0, dtype=np.uint64))


def test_what_is_sent_looks_like_noise_and_differs_by_round() -> None:
    zeros = np.zeros(CHUNK + 1000, np.uint64)
    server = federation(3, 2)
    server.share()
    server.send({client.name: zeros for client in server.clients})
    for sent in server.sent.values():
        # Bits are fair coins: six standard errors either way.
        assert np.unpackbits(sent.view(np.uint8)).mean() == pytest.approx(0.5, abs=6 * 0.5 / np.sqrt(64 * len(zeros)))
        assert len(np.unique(sent)) == len(sent)
    again = SecureClient("c0", 2, b"another", server.clients[0]._mask_key, server.clients[0]._seal_key, server.clients[0]._seed)
    again.shares(server.keys)
    assert not np.array_equal(again.masked(zeros, server.sealed["c0"]), server.sent["c0"])


def test_pairwise_masks_alone_do_not_uncover_anyone() -> None:
    """A vector that comes too late: its pairwise masks can be made again, and its own seed's mask still covers it."""
    server = federation(3, 2)
    server.share()
    ones = np.ones(4, np.uint64)
    server.send({client.name: ones for client in server.clients})
    late = server.sent.pop("c2")
    np.testing.assert_array_equal(server.sum(["c0", "c1"]), 2 * ones)
    client = server.clients[2]
    for peer in ("c0", "c1"):
        add_mask(late, agreed(client._mask_key, server.keys[peer].masks), ROUND, -sign("c2", peer))
    assert not np.array_equal(late, ones)
    add_mask(late, client._seed, ROUND, -1)
    np.testing.assert_array_equal(late, ones)


def test_too_few_are_told_at_every_step() -> None:
    server = federation(5, 3)
    with pytest.raises(SecureSumFailed, match="a threshold of 3 of 6 clients"):
        server.clients[0].shares(
            {f"c{number}": client.keys() for number, client in enumerate([*server.clients, SecureClient("c5", 3, ROUND)])}
        )
    server.share(lost=["c3", "c4"])
    with pytest.raises(SecureSumFailed, match="2 clients have shared their secrets, and 3 must"):
        server.clients[0].masked(np.zeros(1, np.uint64), {name: server.sealed["c0"][name] for name in ("c0", "c1")})
    server.send({name: np.zeros(1, np.uint64) for name in ("c0", "c1", "c2")})
    with pytest.raises(SecureSumFailed, match="2 clients have sent their vector, and 3 must"):
        server.clients[0].reveal(["c0", "c1"])
    with pytest.raises(SecureSumFailed, match="2 clients have revealed their shares, and 3 must"):
        server.sum(["c0", "c1"])


def test_nobody_answers_twice() -> None:
    server = federation(3, 2)
    server.share()
    server.send({client.name: np.zeros(1, np.uint64) for client in server.clients})
    answer = server.clients[0].reveal(["c0", "c1"])
    assert (answer.seeds.keys(), answer.masks.keys()) == ({"c0", "c1"}, {"c2"})
    with pytest.raises(SecureSumFailed, match="c0 has revealed its shares already"):
        server.clients[0].reveal(["c0", "c2"])
    with pytest.raises(SecureSumFailed, match="c0 has sent its vector already"):
        server.clients[0].masked(np.zeros(1, np.uint64), server.sealed["c0"])


def test_what_was_changed_on_its_way_is_noticed() -> None:
    server = federation(3, 2)
    server.share()
    server.sealed["c0"]["c1"] = server.sealed["c0"]["c1"][:-1] + bytes([server.sealed["c0"]["c1"][-1] ^ 1])
    server.send({client.name: np.zeros(1, np.uint64) for client in server.clients})
    with pytest.raises(SecureSumFailed, match="the share from c1 for c0 has been changed"):
        server.clients[0].reveal(["c0", "c1"])
    strangers = federation(3, 2)
    with pytest.raises(SecureSumFailed, match="c0 is not among the peers with its own keys"):
        strangers.clients[0].shares(server.keys)
    same = server.clients[1].keys()
    with pytest.raises(SecureSumFailed, match="two clients have the same key"):
        server.clients[1].shares({"c0": same, "c1": same})


def test_false_shares_are_noticed() -> None:
    server = federation(3, 2)
    server.share()
    server.send({name: np.zeros(1, np.uint64) for name in ("c0", "c1")})
    answers = {name: server.clients[int(name[1])].reveal(["c0", "c1"]) for name in ("c0", "c1")}
    answers["c1"] = Revealed(answers["c1"].seeds, {"c2": answers["c1"].masks["c2"] + 1})
    with pytest.raises(SecureSumFailed, match="the shares of c2 do not"):
        unmask(np.zeros(1, np.uint64), server.keys, server.shared, server.sent, answers, 2, ROUND)


@given(secret=st.binary(min_size=32, max_size=32), data=st.data())
def test_any_threshold_shares_make_the_secret(secret: bytes, data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 8))
    threshold = data.draw(st.integers(2, count))
    shares = split(secret, count, threshold)
    places = data.draw(st.sets(st.integers(1, count), min_size=threshold))
    assert combine({place: shares[place - 1] for place in places}, threshold, "c") == secret
    with pytest.raises(SecureSumFailed, match="shares of c were revealed"):
        combine({1: shares[0]}, threshold, "c")


def test_fixed_point_there_and_back_and_its_limits() -> None:
    values = np.array([0.0, 1.5, -2.25, 1e6, -1e-6])
    np.testing.assert_allclose(from_fixed(to_fixed(values, 30, 4), 30), values, atol=2.0**-31)
    total = to_fixed(values, 30, 2) + to_fixed(-2 * values, 30, 2)
    np.testing.assert_allclose(from_fixed(total, 30), -values, atol=2.0**-30)
    for bad in (np.nan, np.inf, 2.0**40):
        with pytest.raises(SecureSumFailed, match=r"too large for the sum of 4 in units of 2\^-30"):
            to_fixed(np.array([bad]), 30, 4)


@pytest.mark.parametrize(("name", "arguments"), [("fedavg", {}), ("fednova", {"clip": 2.0}), ("scaffold", {"clients": 4})])
def test_a_masked_round_gives_what_an_open_one_gives(name: str, arguments: dict[str, float], tmp_path: Path) -> None:
    aggregator = load(name, arguments)
    assert isinstance(aggregator, Linear)
    base, _ = learning.base(tmp_path)
    plain, server = StreamingRound(aggregator, base), federation(4, 3)
    server.share()
    partials = {}
    # The fourth drops out.
    for file, _ in learning.updates(tmp_path, 3):
        plain.add(file)
        own = StreamingRound(aggregator, base)
        own.add(file)
        own.partial(tmp_path / f"{file.name}.partial")
        partials[file.name] = ModelFile(tmp_path / f"{file.name}.partial")
    plain.partial(tmp_path / "plain")
    # Agreed when the round begins: what the aggregator counts, and the metrics that clients may tell.
    totals = sorted({*PartialInfo.model_validate(ModelFile(tmp_path / "plain").metadata).totals, "metric:auc", "weight:auc"})
    server.send({client: to_words(partial, totals, 40, 4) for client, partial in partials.items()})
    from_words(server.sum(["c0", "c1", "c2"]), aggregator, base, totals, 40, server.sent, tmp_path / "sum")
    masked = StreamingRound(aggregator, base)
    masked.add_partial(ModelFile(tmp_path / "sum"))
    assert masked.members == plain.members
    plain.finish(tmp_path / "open", tmp_path / "state")
    masked.finish(tmp_path / "masked", tmp_path / "state")
    learning.close(ModelFile(tmp_path / "masked"), ModelFile(tmp_path / "open").load(), 1e-9)
    with pytest.raises(SecureSumFailed, match=r"c0\.partial: total 'clients' is not agreed on"):
        to_words(partials["c0"], [], 40, 4)
    with pytest.raises(SecureSumFailed, match="3 numbers where the sums of the model"):
        from_words(np.zeros(3, np.uint64), aggregator, base, totals, 40, [], tmp_path / "bad")
