"""A site that has not installed an extra is told which, where it asks for what needs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fdn_worker.cli_ui import ui
from fdn_worker.errors import SettingsError
from fdn_worker.onlookers import Onlookers
from fdn_worker.tracing import Spans
from fdn_worker.worker import Worker
from tests.unit.helpers import FakeBroker, settings


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "fdn_worker.ui.serving", raising=False)
    file = tmp_path / "fdn-worker.toml"
    file.write_text(
        f'node = "site-a"\nstate_dir = "{tmp_path}"\nlauncher = "process"\nallowed_launchers = ["process"]\nbroker.url = "sqlite:///{tmp_path}/b.db"\n'
    )
    with pytest.raises(SettingsError, match=r"needs the package uvicorn \(pip install 'fdn-worker\[ui\]'\)"):
        ui(file, 0, "")


def test_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "fdn_worker.metrics", raising=False)
    worker = Worker(settings(tmp_path, metrics={"listen": "127.0.0.1:1"}), FakeBroker())
    with pytest.raises(SettingsError, match=r"needs the package prometheus_client \(pip install 'fdn-worker\[metrics\]'\)"):
        Onlookers(worker).start()
    worker.journal.close()


def test_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match="install the extra `tracing`"):
        Spans("http://127.0.0.1:1", "fem")
