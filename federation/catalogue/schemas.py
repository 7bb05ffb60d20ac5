"""The JSON Schemas of the catalogue's files, for editors: `python -m federation.catalogue.schemas` writes them."""

from __future__ import annotations

import json
import os.path
from pathlib import Path

from pydantic import BaseModel

from federation.catalogue.node import NodeEntry
from federation.catalogue.tool import Tool

#: File below docs/reference/schemas -> model.
MODELS: dict[str, type[BaseModel]] = {"tool.schema.json": Tool, "node.schema.json": NodeEntry}
FOLDER = Path(__file__).resolve().parents[2] / "docs/reference/schemas"


def schema(model: type[BaseModel]) -> str:
    """The model's schema as the text of a file."""
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path = FOLDER) -> None:
    """Write every schema."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in MODELS.items():
        (folder / name).write_text(schema(model), encoding="utf-8")


def path_from(folder: Path, name: str) -> str:
    """Where a file in `folder` finds a schema: relative, so that a clone elsewhere finds it as well."""
    return os.path.relpath(FOLDER / name, folder.resolve())


if __name__ == "__main__":
    write()
