"""A client package on this machine, without nodes: as processes by its command lines, or by its class in this one.

Both take and give the same: a model is name -> array, data are arrays x and y, settings whatever the package knows.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import ValidationError

from federation.learning.models import ModelFile, ModelInfo, ModelRefused, save
from federation.learning.package import ARGUMENTS, SETTINGS_INPUT, SETTINGS_VARIABLE, Entry, Package, PackageRefused

Arrays = dict[str, np.ndarray]
Settings = Mapping[str, Any]
Way = Literal["process", "in-process"]

#: Linear algebra on one thread: callers run side by side, and the last bit depends on no number of processors.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
#: Characters of what a failed program said.
SAID = 2000


@dataclass(frozen=True)
class Update:
    """What a client trained, and what it says of it."""

    model: Arrays
    info: ModelInfo


class LocalClient(Protocol):
    """The entry points of a package. Each may raise PackageRefused."""

    def seed(self, settings: Settings) -> Arrays:
        """A first model."""

    def train(self, model: Arrays, settings: Settings, data: Arrays) -> Update:
        """The model after training on the data."""

    def validate(self, model: Arrays, settings: Settings, data: Arrays) -> dict[str, float]:
        """Metrics of the model on the data; `examples` is one."""


def local_client(package: Package, way: Way) -> LocalClient:
    """The package's program, or its class."""
    return Program(package) if way == "process" else InProcess(package)


class Program:
    """The package's commands, each in a folder of its own that looks like a node's."""

    def __init__(self, package: Package, timeout: float | None = None) -> None:
        self._package, self._timeout = package, timeout

    def seed(self, settings: Settings) -> Arrays:
        with tempfile.TemporaryDirectory(prefix="fem-client-") as home:
            self._run("seed", Path(home), settings)
            return self._written(Path(home, "model.safetensors")).load()

    def train(self, model: Arrays, settings: Settings, data: Arrays) -> Update:
        with tempfile.TemporaryDirectory(prefix="fem-client-") as home:
            self._run("train", Path(home), settings, model, data)
            written = self._written(Path(home, "update.safetensors"))
            return Update(written.load(), written.info)

    def validate(self, model: Arrays, settings: Settings, data: Arrays) -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="fem-client-") as home:
            self._run("validate", Path(home), settings, model, data)
            try:
                said = json.loads(Path(home, "metrics.json").read_text())
            except (OSError, ValueError) as error:
                raise PackageRefused(f"{self._package.name}: validate left no JSON in metrics.json: {error}") from error
            return metrics(self._package, said)

    def _written(self, path: Path) -> ModelFile:
        try:
            return ModelFile(path)
        except ModelRefused as error:
            raise PackageRefused(f"{self._package.name}: what its program left is no model: {error.message}") from error

    def _run(self, entry: Entry, home: Path, settings: Settings, model: Arrays | None = None, data: Arrays | None = None) -> None:
        """Its command with all that it reads in place; what it writes lies in `home`."""
        inputs, dataset = home / "inputs", home / "data" / str(settings.get("dataset", "data"))
        inputs.mkdir()
        dataset.mkdir(parents=True)
        (inputs / SETTINGS_INPUT).write_text(json.dumps(dict(settings)))
        if model is not None:
            save(inputs / "model.safetensors", model)
        if data is not None:
            np.savez(dataset / ("train.npz" if entry == "train" else "test.npz"), x=data["x"], y=data["y"])
        places = {"INPUT_PATH": str(inputs), "SANDBOX_PATH": str(home), "DATA_PATH": str(home / "data")}
        argv = [self._package.place(word, str(self._package.folder.absolute())) for word in self._package.words(entry)]
        argv += [argument.replace("$INPUT_PATH", str(inputs)).replace("$SANDBOX_PATH", str(home)) for argument in ARGUMENTS[entry]]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        environment = {"PATH": path, "HOME": str(home), "NODE_NAME": "local", SETTINGS_VARIABLE: str(inputs / SETTINGS_INPUT)}
        try:
            done = subprocess.run(
                argv, cwd=home, env=environment | places | ONE_THREAD, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=self._timeout, check=False,
            )  # fmt: skip
        except OSError as error:
            raise PackageRefused(f"{self._package.name}: {argv[0]} cannot be started: {error.strerror}") from error
        if done.returncode:
            said = done.stdout.decode(errors="replace").strip()[-SAID:]
            raise PackageRefused(f"{self._package.name}: {entry} ended with {done.returncode}: {said}", remedy="mend the package")


class InProcess:
    """The package's class. Its module is loaded by itself, and so may import what is installed and no other file of the package."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._client = _class(package)()

    def seed(self, settings: Settings) -> Arrays:
        return dict(self._call("seed", dict(settings)))

    def train(self, model: Arrays, settings: Settings, data: Arrays) -> Update:
        arrays, said = self._call("train", dict(model), dict(settings), data)
        try:
            return Update(dict(arrays), ModelInfo.model_validate(said))
        except ValidationError as error:
            first = error.errors()[0]
            raise PackageRefused(
                f"{self._package.name}: train says {'.'.join(map(str, first['loc']))} {first['input']!r}: {first['msg']}"
            ) from error

    def validate(self, model: Arrays, settings: Settings, data: Arrays) -> dict[str, float]:
        return metrics(self._package, self._call("validate", dict(model), dict(settings), data))

    def _call(self, name: str, *arguments: Any) -> Any:
        if not hasattr(self._client, name):
            raise PackageRefused(f"{self._package.folder}: class {self._package.client.class_} has no method {name}")
        # Live metrics are for who watches a node.
        with contextlib.redirect_stdout(io.StringIO()):
            return getattr(self._client, name)(*arguments)


def metrics(package: Package, said: Any) -> dict[str, float]:
    """What validate says, if it is names of numbers."""
    if not isinstance(said, dict) or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in said.values()):
        raise PackageRefused(
            f"{package.name}: validate says {str(said)[:80]!r}", remedy="metrics are {name: number}, `examples` among them"
        )
    return {str(name): float(value) for name, value in said.items()}


def _class(package: Package) -> Any:
    if package.client.class_ is None:
        raise PackageRefused(
            f"{package.folder}: client.yaml names no class", remedy="add `class: module:Class`, or run the package as a process"
        )
    module, _, name = package.client.class_.partition(":")
    path = (package.folder / f"{module}.py").absolute()
    spec = importlib.util.spec_from_file_location(f"client_package_{package.checksum}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(loaded)
    except (ImportError, SyntaxError) as error:
        raise PackageRefused(f"{path}: cannot be loaded: {error}", remedy="the class's module imports installed packages alone") from error
    if not hasattr(loaded, name):
        raise PackageRefused(f"{path}: there is no class {name}", remedy="mend `class` in client.yaml")
    return getattr(loaded, name)
