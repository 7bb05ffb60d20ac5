"""The federation's own program for nodes: the archive is whole and always the same, and does what the centre does."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fdn_worker.errors import FdnError
from federation.learning import at_node
from federation.learning.aggregator import load
from federation.learning.at_node import Report
from federation.learning.combining import asked_for
from federation.learning.models import ModelFile, save
from federation.learning.program import program
from federation.learning.rounds import StreamingRound
from federation.learning.secure_partial import from_words
from federation.learning.secure_sum import Keys, Revealed, SecureSumFailed, unmask
from tests.unit import learning


def test_the_archive_is_the_same_every_time() -> None:
    first = program()
    program.cache_clear()
    assert program() == first


def test_a_fold_in_a_process_of_its_own_that_has_the_archive_alone(tmp_path: Path) -> None:
    base, _ = learning.base(tmp_path)
    updates = [update for update, _ in learning.updates(tmp_path, 4)]
    aggregator = load("norm-clipping", {"clip": 1.5})
    inputs, sandbox = tmp_path / "inputs", tmp_path / "sandbox"
    for folder in (sandbox, inputs / "partials", inputs / "updates"):
        folder.mkdir(parents=True)
    (inputs / at_node.AGGREGATOR).write_text(json.dumps(asked_for(aggregator)))
    base.path.rename(inputs / at_node.MODEL)
    base = ModelFile(inputs / at_node.MODEL)
    before = StreamingRound(aggregator, base)  # type: ignore[arg-type]
    before.add(updates[0])
    before.partial(inputs / "partials/left.safetensors")
    for update in updates[1:]:
        update.path.rename(inputs / "updates" / update.path.name)
    save(inputs / "updates/c9.safetensors", {"another": np.zeros(3)})
    (tmp_path / "learning.pyz").write_bytes(program())
    words = [sys.executable, "-I", "learning.pyz", "fold", str(inputs), str(sandbox)]
    subprocess.run(words, cwd=tmp_path, check=True, timeout=120)

    report = Report.model_validate_json((sandbox / at_node.REPORT).read_bytes())
    assert report.told == {f"c{number}": updates[number].info for number in (1, 2, 3)}
    assert report.refused.keys() == {"c9"}
    for update in updates[1:]:
        before.add(ModelFile(inputs / "updates" / update.path.name, name=update.name))
    before.partial(tmp_path / "expected.safetensors")
    learning.close(ModelFile(sandbox / at_node.PARTIAL), ModelFile(tmp_path / "expected.safetensors").load())


def test_what_cannot_be_folded_ends_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learning.base(tmp_path)[0].path.rename(tmp_path / at_node.MODEL)
    (tmp_path / at_node.AGGREGATOR).write_text('{"name": "of-a-plugin", "arguments": {}}')
    monkeypatch.setattr(sys, "argv", ["learning.pyz", "fold", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit, match="fold: there is no aggregator 'of-a-plugin'"):
        at_node.main()


class Site:
    """A client's sandbox, in which training has left an update, and the inputs of its tasks."""

    def __init__(self, folder: Path, name: str, update: ModelFile) -> None:
        self.name, self.inputs, self.sandbox = name, folder / name / "inputs", folder / name / "sandbox"
        for path in (self.inputs, self.sandbox):
            path.mkdir(parents=True)
        update.path.rename(self.sandbox / at_node.UPDATE)
        (self.inputs / at_node.SECURE).write_text(json.dumps({"threshold": 2, "round": "aa", "metrics": ["loss"], "bits": 32}))
        (self.inputs / at_node.AGGREGATOR).write_text('{"name": "fedavg", "arguments": {}}')
        (self.inputs / at_node.MODEL).write_bytes((folder / "base.safetensors").read_bytes())

    def step(self, name: str, given: object = None) -> object:
        """One task; what it leaves."""
        (self.inputs / at_node.given(name)).write_text(json.dumps(given))
        os.environ["NODE_NAME"] = self.name
        at_node.COMMANDS[name](self.inputs, self.sandbox)
        left = self.sandbox / at_node.answered(name)
        return json.loads(left.read_text()) if left.exists() else None


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Site]:
    monkeypatch.setenv("NODE_NAME", "")
    learning.base(tmp_path)
    return [Site(tmp_path, update.name, update) for update, _ in learning.updates(tmp_path, 3)]


def test_the_steps_of_a_secure_sum_through_their_files(sites: list[Site], tmp_path: Path) -> None:
    """All send but c2, which has a metric that is not agreed on, too."""
    published = {site.name: site.step("keys") for site in sites}
    assert stat.S_IMODE((sites[0].sandbox / at_node.SECRETS).stat().st_mode) == 0o600
    with pytest.raises(FdnError, match="has published its keys already"):
        sites[0].step("keys")
    sealed = {site.name: site.step("shares", published) for site in sites}
    for site in sites[:2]:
        site.step("masked", {sender: shares[site.name] for sender, shares in sealed.items()})  # type: ignore[index]
    with pytest.raises(SecureSumFailed, match="c0 has sent its vector already"):
        sites[0].step("masked", {sender: shares["c0"] for sender, shares in sealed.items()})  # type: ignore[index]
    first, second = (np.fromfile(site.sandbox / at_node.MASKED, "<u8") for site in sites[:2])
    answers = {site.name: site.step("reveal", ["c0", "c1"]) for site in sites[:2]}
    assert sorted(path.name for path in sites[0].sandbox.iterdir()) == ["keys.json", "reveal.json", "shares.json"], "no secret stays"

    peers = {name: Keys(*map(bytes.fromhex, keys)) for name, keys in published.items()}  # type: ignore[call-overload]
    revealed = {
        name: Revealed(*({peer: int(share, 16) for peer, share in answer[kind].items()} for kind in ("seeds", "masks")))  # type: ignore[index]
        for name, answer in answers.items()
    }
    words = unmask(first + second, peers, sealed, ["c0", "c1"], revealed, 2, b"\xaa")
    base, aggregator = ModelFile(tmp_path / "base.safetensors"), load("fedavg")
    totals = ["clients", "examples", "kept:model", "metric:loss", "model", "weight:loss"]
    from_words(words, aggregator, base, totals, 32, ["c0", "c1"], tmp_path / "sum.safetensors")  # type: ignore[arg-type]
    masked, plain = StreamingRound(aggregator, base), StreamingRound(aggregator, base)  # type: ignore[arg-type]
    masked.add_partial(ModelFile(tmp_path / "sum.safetensors"))
    for update, _ in learning.updates(tmp_path, 2):
        plain.add(update)
    found = masked.finish(tmp_path / "masked.safetensors", tmp_path / "masked.state")
    expected = plain.finish(tmp_path / "plain.safetensors", tmp_path / "plain.state")
    learning.close(ModelFile(tmp_path / "masked.safetensors"), ModelFile(tmp_path / "plain.safetensors").load(), 1e-8)
    assert found.examples == expected.examples
    assert found.metrics == pytest.approx({"loss": expected.metrics["loss"]}), "what was not agreed on stays there"
