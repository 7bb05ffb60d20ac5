"""A federation on this machine: real workers as processes, for the demo, the tests and the benchmarks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from fdn_worker.errors import SystemFault
from fdn_worker.protocol import Signer
from fdn_worker.protocol.envelope import make_key
from federation.centre import Centre
from federation.enrol import enrol
from federation.presence import presence
from federation.settings import CentreSettings

#: Seconds for a worker to be heard, and to end.
START_SECONDS, STOP_SECONDS = 120.0, 30.0


@dataclass
class LocalFederation:
    """Use as a context: enrols the nodes, starts a worker each, and ends them all.

    The embedded broker and a folder store, unless `broker_url` and `store_url` say otherwise; then messages are
    signed. `options` go to every worker's settings.
    """

    home: Path
    nodes: tuple[str, ...]
    datasets: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    broker_url: str = ""
    store_url: str = ""
    records_url: str = ""
    launcher: str = "process"
    launcher_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    #: The module that is started as a worker.
    worker: str = "fdn_worker"
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home = self.home.absolute()
        self.home.mkdir(parents=True, exist_ok=True)

    @property
    def embedded(self) -> bool:
        return not self.broker_url.startswith("amqp")

    def environment(self) -> dict[str, str]:
        """The variables that make `fem`, or a flow's process, use this federation."""
        named = {"FEM_BROKER_URL": self.broker_url, "FEM_STORE_URL": self.store_url, "FEM_RECORDS_URL": self.records_url}
        key = {} if self.embedded else {"FEM_KEY": str(self.home / "centre.key")}
        return {"FEM_HOME": str(self.home), **{name: value for name, value in named.items() if value}, **key}

    def settings(self) -> CentreSettings:
        """The centre's settings for this federation."""
        fields = {name.removeprefix("FEM_").lower(): value for name, value in self.environment().items()}
        return CentreSettings(**fields)  # type: ignore[arg-type]

    def prepare(self) -> None:
        """Keys, settings files and queues, without starting anything. Doing it again changes nothing."""
        trusted = {}
        if not self.embedded:
            for path in (self.home / "centre.key", *(self._key(node) for node in self.nodes)):
                if not path.exists():
                    make_key(path)
            trusted = {"centre": Signer.load("centre", self.home / "centre.key").public_key()}
        centre = Centre.open(self.settings())
        try:
            for node in self.nodes:
                public = "" if self.embedded else Signer.load(node, self._key(node)).public_key()
                enrol(centre.broker, centre.records, node, public_key=public)
                self._write_settings(node, trusted, centre.settings)
        finally:
            centre.close()

    def _key(self, node: str) -> Path:
        return self.home / f"{node}.key"

    def settings_file(self, node: str) -> Path:
        """The worker's settings file."""
        return self.home / f"{node}.toml"

    def _write_settings(self, node: str, trusted: Mapping[str, str], centre: CentreSettings) -> None:
        datasets = {name: str(folder) for name, folder in self.datasets.get(node, {}).items()}
        keys: dict[str, Any] = {} if self.embedded else {"private": str(self._key(node)), "trusted": dict(trusted)}
        settings: dict[str, Any] = {
            "node": node, "state_dir": str(self.home / "sites" / node), "heartbeat": 2.0, "grace": 2.0, "slots": 2,
            "launcher": self.launcher, "allowed_launchers": [self.launcher], "launchers": {self.launcher: dict(self.launcher_options)},
            "datasets": datasets, "data_roots": sorted({str(Path(folder).parent) for folder in datasets.values()}),
            "broker": {"url": centre.broker_url.get_secret_value()}, "keys": keys,
            "transfer": {"allow_file": centre.store_url.get_secret_value().startswith("file:")}, "limits": {"disk_reserve": 0},
        }  # fmt: skip
        for name, value in self.options.items():
            settings[name] = settings[name] | value if isinstance(value, dict) and name in settings else value
        self.settings_file(node).touch(mode=0o600)
        self.settings_file(node).write_text(toml(settings), encoding="utf-8")

    def start(self, node: str) -> subprocess.Popen[bytes]:
        """Start the node's worker; does not wait for it."""
        log = (self.home / f"{node}.log").open("ab")
        with log:
            self.workers[node] = subprocess.Popen(
                [sys.executable, "-m", self.worker, "start", "--settings", str(self.settings_file(node))],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=clean_environment(),
            )  # fmt: skip
        return self.workers[node]

    def wait_connected(self, centre: Centre) -> None:
        """Return once every node was heard."""
        centre.ensure_relay()
        end = time.monotonic() + START_SECONDS
        while missing := [node.name for node in presence(centre.records) if node.presence != "connected" and node.name in self.workers]:
            for name in missing:
                if (code := self.workers[name].poll()) is not None:
                    said = (self.home / f"{name}.log").read_text().strip().rpartition("\n")[2]
                    raise SystemFault(f"the worker of {name} ended with {code}: {said}")
            if time.monotonic() > end:
                raise SystemFault(f"no word from {', '.join(missing)} in {START_SECONDS:.0f} s", remedy=f"see the logs in {self.home}")
            time.sleep(0.05)

    @contextmanager
    def connected(self) -> Iterator[Centre]:
        """A centre of it, once every node was heard."""
        with closing(Centre.open(self.settings())) as centre:
            self.wait_connected(centre)
            yield centre

    def stop(self, node: str, number: int = signal.SIGTERM) -> None:
        """End the node's worker."""
        process = self.workers.pop(node)
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> LocalFederation:
        self.prepare()
        for node in self.nodes:
            self.start(node)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for node in list(self.workers):
            self.stop(node)


def clean_environment() -> dict[str, str]:
    """Of this process, without settings of Prefect, the centre or a node."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("FEM_", "FDN_", "PREFECT_"))}


def toml(settings: Mapping[str, Any]) -> str:
    """Settings as TOML: what JSON writes of strings, numbers, booleans and lists, TOML reads alike."""
    lines: list[str] = []

    def table(prefix: str, values: Mapping[str, Any]) -> None:
        tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
        lines.extend(f"{written(name)} = {written(value)}" for name, value in values.items() if name not in tables)
        for name, value in tables.items():
            lines.append(f"[{prefix}{written(name)}]")
            table(f"{prefix}{written(name)}.", value)

    def written(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{written(name)} = {written(inner)}" for name, inner in value.items()) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(written, value)) + "]"
        # TOML knows no surrogates, by which JSON escapes what lies beyond 16 bits, and wants DEL escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

    table("", settings)
    return "\n".join(lines) + "\n"
