"""A model for use elsewhere: its file, as safetensors or .npz, with a card beside it that tells where it came from."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fdn_worker.errors import SystemFault
from federation.learning.models import ModelFile
from federation.learning.trail import Trail
from federation.request import BadRequest
from storage.learning import Learning, ModelRow


def export(trail: Trail, learning: Learning, model: ModelRow, to: Path) -> Path:
    """Write the model to `to` (.safetensors or .npz) and its card to `to` with .json after it: both or neither. The card's path."""
    if to.suffix not in (".safetensors", ".npz"):
        raise BadRequest(f"model file {to.name}: neither .safetensors nor .npz", remedy="name it FILE.safetensors or FILE.npz")
    if to.is_dir():
        raise BadRequest(f"model file {to} is a folder", remedy="name a file")
    beside = to.with_name(to.name + ".json")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as place:
            made = trail.fetch(model, Path(place, "model.safetensors"))
            file = ModelFile(made, name=model.id)
            if to.suffix == ".npz":
                made = Path(place, "model.npz")
                write_npz(file, made)
            text = json.dumps(card(learning, model, file), indent=2) + "\n"
            written = Path(place, "card.json")
            written.write_text(text, encoding="utf-8")
            written.replace(beside)
            made.replace(to)
    except OSError as error:
        raise SystemFault(f"{to}: {error.strerror}", code="download-disk", remedy="name a place with room for it") from error
    return beside


def write_npz(model: ModelFile, to: Path) -> None:
    """What `numpy.load` reads: stored and not packed, a block at a time. The same model gives the same bytes."""
    with zipfile.ZipFile(to, "w") as archive:
        for key, tensor in model.tensors.items():
            # a ZipInfo of its own has the same date always
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as entry:
                described = {"descr": np.lib.format.dtype_to_descr(tensor.dtype), "fortran_order": False, "shape": tensor.shape}
                np.lib.format.write_array_header_1_0(entry, described)
                for _, block in model.blocks(key):
                    entry.write(block.data)


def card(learning: Learning, model: ModelRow, file: ModelFile) -> dict[str, Any]:
    """What is known of a model, as JSON has it; the ancestors with the nearest first."""
    session = learning.find_session(model.session)
    counted = learning.counted(session.id, model.round)
    return {
        "model": model.id, "created": model.created.isoformat(), "sha256": model.sha256, "size": model.size,
        "session": {"id": session.id, "name": session.name, "user": session.user, "project": session.project},
        "round": model.round, "parent": model.parent,
        "ancestors": [{"model": row.id, "session": row.session, "round": row.round, "sha256": row.sha256} for row in learning.ancestors(model.id)],
        "participants": {row.client: {"examples": row.examples, "outcome": row.outcome} for row in counted},
        "examples": model.examples, "metrics": model.metrics,
        "package_sha256": session.package, "aggregator": json.loads(session.configuration).get("aggregator"),
        "parameters": sum(tensor.count for tensor in file.tensors.values()),
        "tensors": {key: {"dtype": tensor.dtype.name, "shape": list(tensor.shape)} for key, tensor in file.tensors.items()},
        "released": {"at": model.released.isoformat(), "by": model.released_by, "note": model.note} if model.released else None,
    }  # fmt: skip
