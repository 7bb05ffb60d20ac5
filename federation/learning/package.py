"""A client package: a folder with the program that trains at the nodes, and `client.yaml`, which says how it is started.

    train     $INPUT_PATH/model.safetensors $SANDBOX_PATH/update.safetensors
    validate  $INPUT_PATH/model.safetensors $SANDBOX_PATH/metrics.json
    predict   $INPUT_PATH/model.safetensors $SANDBOX_PATH/predictions.csv
    seed      $SANDBOX_PATH/model.safetensors

are what its commands are given to read and to write. Settings are a JSON file, $FEM_SETTINGS; data lie at $DATA_PATH/DATASET.
All files of the folder go along as inputs `package/...`, but for hidden ones and what Python compiled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from fdn_worker.errors import Fault, FdnError
from fdn_worker.protocol.base import check_relative_path
from fdn_worker.protocol.order import IMAGE_PATTERN, Digest
from federation.catalogue.document import CatalogueError, Document
from federation.nearest import unknown

Entry = Literal["train", "validate", "predict", "seed"]
NEEDED: tuple[Entry, ...] = ("train", "validate")

#: What each command is given behind its own words.
ARGUMENTS: dict[Entry, tuple[str, ...]] = {
    "train": ("$INPUT_PATH/model.safetensors", "$SANDBOX_PATH/update.safetensors"),
    "validate": ("$INPUT_PATH/model.safetensors", "$SANDBOX_PATH/metrics.json"),
    "predict": ("$INPUT_PATH/model.safetensors", "$SANDBOX_PATH/predictions.csv"),
    "seed": ("$SANDBOX_PATH/model.safetensors",),
}  # fmt: skip
#: The folder of a package's files among the inputs of a task, and the variable and input of its settings.
FOLDER, SETTINGS_VARIABLE, SETTINGS_INPUT = "package", "FEM_SETTINGS", "settings.json"
#: Endings of words that can be nothing but files of the package.
SCRIPTS = {".py", ".sh", ".r", ".jl"}
#: Files of a package, and bytes of all of them: it is a program, data stand at the nodes.
MOST_FILES, LARGEST = 1000, 64 * 1024**2

ClassName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$")]
Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class PackageRefused(FdnError):
    """A client package cannot be used; says which, and what of it is wrong."""

    code = "package-refused"
    fault = Fault.USER


class ClientFile(BaseModel):
    """What client.yaml says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    #: Command lines, as lists of words; a word that is a file of the package is found where that stands.
    entry_points: dict[Entry, Words]
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    #: `module:Class`, for a simulation in its own process.
    class_: ClassName | None = Field(None, alias="class")
    image: Annotated[str, Field(min_length=1, pattern=IMAGE_PATTERN)] | None = None
    image_digest: Digest | None = None

    @field_validator("entry_points")
    @classmethod
    def _both(cls, value: dict[Entry, Words]) -> dict[Entry, Words]:
        if missing := [name for name in NEEDED if name not in value]:
            raise ValueError(f"there is no entry point {missing[0]}, and every package needs one")
        return value


@dataclass(frozen=True)
class Package:
    """A package that was found to be whole; made by `load`."""

    folder: Path
    client: ClientFile

    @classmethod
    def load(cls, folder: Path) -> Package:
        """The package of a folder. PackageRefused where it has no client.yaml, or that names what is not there."""
        path = folder / "client.yaml"
        if not path.is_file():
            why = "has no client.yaml" if folder.is_dir() else "is no folder"
            raise PackageRefused(f"{folder}: {why}", remedy="a client package is a folder with client.yaml: see reference/learning.md")
        try:
            package = cls(folder, Document(path).build(ClientFile))
        except CatalogueError as error:
            raise PackageRefused(str(error), remedy="mend the file: reference/learning.md has its keys") from error
        package._check()
        return package

    @property
    def name(self) -> str:
        return self.client.name

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The defaults of its settings."""
        return dict(self.client.settings)

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Name below the folder -> file."""
        return dict(sorted(self._walk(self.folder)))

    def files(self) -> dict[str, Path]:
        """Name of the input -> file."""
        return {f"{FOLDER}/{name}": path for name, path in self._files.items()}

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the names and contents of all files, in hexadecimal."""
        whole = hashlib.sha256()
        for name, path in self._files.items():
            with path.open("rb") as file:
                whole.update(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n".encode())
        return whole.hexdigest()

    def words(self, entry: Entry) -> tuple[str, ...]:
        """The command line as client.yaml has it. PackageRefused where the package has no such entry point."""
        if entry not in self.client.entry_points:
            raise PackageRefused(f"{self.folder}: client.yaml has no entry point {entry}", remedy=unknown(entry, self.client.entry_points))
        return self.client.entry_points[entry]

    def argv(self, entry: Entry) -> tuple[str, ...]:
        """The whole command line at a node, with what it reads and writes."""
        return (*(self.place(word, f"$INPUT_PATH/{FOLDER}") for word in self.words(entry)), *ARGUMENTS[entry])

    def place(self, word: str, folder: str) -> str:
        """A word of a command line, where the package's files stand in that folder."""
        return f"{folder}/{PurePosixPath(word)}" if str(PurePosixPath(word)) in self._files else word

    def _walk(self, folder: Path) -> Iterator[tuple[str, Path]]:
        for path in folder.iterdir():
            if path.name.startswith(".") or path.name == "__pycache__":
                continue
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise PackageRefused(f"{path}: is no plain file, and cannot be handed over", remedy="put the file itself there")
            if path.is_dir():
                yield from self._walk(path)
                continue
            name = path.relative_to(self.folder).as_posix()
            try:
                check_relative_path(name)
            except ValueError as error:
                raise PackageRefused(f"{path}: {error}", remedy="rename it") from error
            yield name, path

    def _check(self) -> None:
        size = sum(path.stat().st_size for path in self._files.values())
        if len(self._files) > MOST_FILES or size > LARGEST:
            raise PackageRefused(
                f"{self.folder}: {len(self._files)} files of {size / 1024**2:.0f} MiB are no client package",
                remedy=f"at most {MOST_FILES} files and {LARGEST // 1024**2} MiB: data stand at the nodes",
            )
        for entry in self.client.entry_points:
            self._check_words(entry)
        if self.client.class_ and (module := f"{self.client.class_.partition(':')[0]}.py") not in self._files:
            raise PackageRefused(
                f"{self.folder}: client.yaml: class: there is no file {module} in the package", remedy=unknown(module, self._files)
            )

    def _check_words(self, entry: Entry) -> None:
        words = self.words(entry)
        if str(PurePosixPath(words[0])) in self._files:
            raise PackageRefused(
                f"{self.folder}: client.yaml: entry_points.{entry}: begins with {words[0]}, and nothing of a package is executable at a node",
                remedy=f"begin with what runs it: [python3, {words[0]}]",
            )
        for word in words:
            if PurePosixPath(word).suffix.lower() in SCRIPTS and not word.startswith(("/", "$", "-")) and self.place(word, "") == word:
                raise PackageRefused(
                    f"{self.folder}: client.yaml: entry_points.{entry}: there is no file {word} in the package",
                    remedy=unknown(word, self._files),
                )
