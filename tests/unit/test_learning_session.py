"""Session files: what they may say, and that each wrong one is told by its key and line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from federation.learning.aggregator import Corrected
from federation.learning.models import save
from federation.learning.selection import Client
from federation.learning.session import SessionConfiguration, SessionRefused, load_session
from federation.learning.stopping import first

WHOLE = """\
name: digits
package: package
nodes: [site-1, site-2, site-3]
aggregator: {name: scaffold, arguments: {learning_rate: 0.1}}
rounds: 5
clients_required: 2
"""


def load(folder: Path, text: str = WHOLE, **more: str) -> SessionConfiguration:
    file = folder / "session.yaml"
    file.write_text(text + "".join(f"{key}: {value}\n" for key, value in more.items()))
    return load_session(file)


def test_paths_lie_beside_the_file_and_the_rest_has_defaults(tmp_path: Path) -> None:
    save(tmp_path / "seed.safetensors", {"w": np.zeros(2)})
    asked = load(tmp_path, model="seed.safetensors")
    assert asked.package == str(tmp_path / "package")
    assert asked.model == str(tmp_path / "seed.safetensors")
    assert (asked.round_timeout, asked.buffer, asked.stragglers, asked.validate_, asked.checkpoints) == (180, -1, "drop", True, "all")
    aggregator = asked.make_aggregator(3)
    assert isinstance(aggregator, Corrected)
    assert aggregator.model_dump()["clients"] == 3, "how many there are is the session's to know"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rounds: 5", "round: 5", r"session\.yaml:5: round: unknown key, did you mean rounds\?"),
        ("rounds: 5", "rounds: 0", r"session\.yaml:5: rounds: Input should be greater than or equal to 1"),
        ("rounds: 5", "round_timeout: 0", r":5: round_timeout: Input should be greater than 0"),
        ("name: scaffold", "name: fedawg", r":4: aggregator: there is no aggregator 'fedawg' \(there are dp-fedavg"),
        ("learning_rate", "rate", r":4: aggregator: aggregator scaffold: rate: Extra inputs"),
        ("clients_required: 2", "clients_required: 4", r"clients_required: 4 of 3 nodes"),
        ("rounds: 5", "clients_requested: 1", r"clients_required: 2, and 1 are asked"),
        ("rounds: 5", "buffer: 1", r"buffer: a round that ends after 1 updates never has the 2"),
        ("rounds: 5", "buffer: 4", r"buffer: 4 updates of 3 clients"),
        ("rounds: 5", "buffer: 0", r":5: buffer: Input should be"),
        ("site-2, site-3", "site-2, site-2", r":3: nodes: site-2 named twice"),
        ("site-2, site-3", "Site_2", r":3: nodes\.1: 'Site_2' is not allowed"),
        ("rounds: 5", "stragglers: wait", r":5: stragglers: Input should be 'drop' or 'next-round'"),
        ("rounds: 5", "checkpoints: sometimes", r":5: checkpoints: checkpoints 'sometimes': there is no such policy"),
        ("rounds: 5", "select: {how: random}", r":5: select: `how: random` needs share"),
        ("rounds: 5", "select: {share: 0.5}", r":5: select: share goes with `how: random`, and here it is all"),
        ("rounds: 5", "select: {how: random, share: 1.2}", r":5: select\.share: Input should be less than or equal to 1"),
        ("rounds: 5", "stop: {metric: {name: accuracy}}", r":5: stop\.metric\.reached: is required"),
        ("rounds: 5", "stop: {patience: {rounds: 0}}", r":5: stop\.patience\.rounds: Input should be greater"),
        ("rounds: 5", "combiners: [{name: a, above: b}]", r":5: combiners: a stands below b, which is no combiner"),
        ("rounds: 5", "combiners: [{name: a, above: b}, {name: b, above: a}]", r":5: combiners: a stands below itself"),
        (
            "rounds: 5", "combiners: [{name: a, above: b}, {name: b, at: site-1}]",
            r":5: combiners: a stands at the centre, and b above it at a node",
        ),
        ("rounds: 5", "secure_sum: {threshold: 1}", r":5: secure_sum\.threshold: Input should be greater than or equal to 2"),
        ("rounds: 5", "secure_sum: {threshold: 2}", r"secure_sum: scaffold remembers something of each client's update"),
        ("rounds: 5", "assign: by_name", r"names: goes with `assign: by_name`"),
        ("rounds: 5", "model: seed.bin", r"session\.yaml:5: model: there is no file seed\.bin"),
        ("name: digits\n", "", r"session\.yaml:1: name: is required"),
        ("rounds: 5", "local: {dataset: digits, partition: {alpha: 1}}", r":5: local\.partition\.alpha: unknown key"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in WHOLE
    with pytest.raises(SessionRefused, match=said):
        load(tmp_path, WHOLE.replace(old, new, 1))


def test_what_compares_updates_is_refused_where_only_sums_are_seen(tmp_path: Path) -> None:
    text = WHOLE.replace("{name: scaffold, arguments: {learning_rate: 0.1}}", "{name: median}")
    load(tmp_path, text)
    with pytest.raises(SessionRefused, match="combiners: median compares the updates of all clients"):
        load(tmp_path, text, combiners="[{name: a}]")
    with pytest.raises(SessionRefused, match="secure_sum: median compares the updates of all clients"):
        load(tmp_path, text, secure_sum="{threshold: 2}")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"combiners": "[{name: a}]"}, "the sum is made at the centre, and combiners would see updates"),
        ({"stragglers": "next-round"}, "an update counts in its own round alone"),
        ({"nodes": "[a, b, c, d]"}, "a threshold of 2 of 4 clients: it is more than half of them"),
        ({"clients_requested": "1"}, "a threshold of 2 of 1 clients"),
    ],
)
def test_what_a_secure_sum_does_not_go_with(tmp_path: Path, keys: dict[str, str], said: str) -> None:
    text = "name: digits\npackage: package\n"
    assert load(tmp_path, text, secure_sum="{threshold: 2}").secure_sum is not None
    with pytest.raises(SessionRefused, match=f"secure_sum: {said}"):
        load(tmp_path, text, secure_sum="{threshold: 2}", **keys)


def of_two(clients: Sequence[Client], number: int) -> Sequence[Client]:
    """The function of a test."""
    return clients[number % 2 :][:1]


def test_the_ways_to_select(tmp_path: Path) -> None:
    clients = [Client("a", {"region": "north"}), Client("b"), Client("c", {"region": "north"})]

    def chosen(select: str) -> list[str]:
        asked = load(tmp_path, select=select)
        return [client.name for client in asked.select.selection()(clients, 1)]

    assert chosen("{how: all}") == ["a", "b", "c"]
    assert len(chosen("{how: random, share: 0.5, seed: 3}")) == 2
    assert chosen("{how: attributes, attributes: {region: north}}") == ["a", "c"]
    assert chosen(f"{{how: function, function: '{__name__}:of_two'}}") == ["b"]
    with pytest.raises(SessionRefused, match=r"select\.function: nowhere:f: No module named 'nowhere'"):
        chosen("{how: function, function: 'nowhere:f'}")


def test_the_rules_for_its_end(tmp_path: Path) -> None:
    stop = "{metric: {name: accuracy, reached: 0.9}, loss: {reached: 0.1}, patience: {name: loss, rounds: 2}}"
    rules = load(tmp_path, stop=stop).rules()
    assert first(rules, [{"loss": 0.5}]) is None
    assert first(rules, [{"loss": 0.5}] * 5) == "5 rounds were run"
    assert first(rules, [{"accuracy": 0.95, "loss": 1}]) == "accuracy is 0.95, at least 0.9"
    assert first(rules, [{"loss": 0.05}]) == "loss is 0.05, at most 0.1"
    assert first(rules, [{"loss": 0.5}, {"loss": 0.5}, {"loss": 0.6}]) == "loss has not been better for 2 rounds"
