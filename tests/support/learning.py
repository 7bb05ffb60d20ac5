"""A client package for the tests of sessions: quick, since it needs nothing but Python, and as faulty as a test asks.

Its model is one tensor `w` of four numbers. A client moves it half way to its own number, the one that its node's name ends with (site-3: 3.0), less
its correction where it is sent one, and says that it has as many examples. The setting `faults` has node -> round -> what is wrong with it then: `nan`,
`shape`, `fail`, `hang`, `wait` (until the file that the setting `until` names is there) or `metrics` (of its validation).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from federation.learning.models import ModelFile, save
from federation.learning.session import SessionConfiguration

PROGRAM = """\
import json, os, struct, sys, time
from pathlib import Path

command, *paths = sys.argv[1:]
settings = json.loads(Path(os.environ["FEM_SETTINGS"]).read_text())
node, round_ = os.environ["NODE_NAME"], settings["round"]
own = float(node.rpartition("-")[2])


def read(path, name="w"):
    data = Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + length])
    if name not in head:
        return [0.0] * 4
    start = 8 + length + head[name]["data_offsets"][0]
    return struct.unpack("<4d", data[start : start + 32])


def write(path, values, **said):
    head = json.dumps({"__metadata__": {k: json.dumps(v) for k, v in said.items()},
                       "w": {"dtype": "F64", "shape": [len(values)], "data_offsets": [0, 8 * len(values)]}}).encode()
    Path(path).write_bytes(struct.pack("<Q", len(head)) + head + struct.pack(f"<{len(values)}d", *values))


fault = settings.get("faults", {}).get(node, {}).get(str(round_), "")
if command == "seed":
    write(paths[0], [0.0] * 4)
elif command == "train":
    w = read(paths[0])
    if fault == "fail":
        sys.exit("it was to fail")
    while fault == "hang" or (fault == "wait" and not Path(settings["until"]).exists()):
        time.sleep(0.05)
    rate = settings.get("learning_rate", 1.0)
    new = [float("nan") if fault == "nan" else x + (own - x) / 2 - rate * c for x, c in zip(w, read(paths[0], "correction/w"))]
    loss = sum((own - x) ** 2 for x in new)
    print("::metrics " + json.dumps({"step": 1, "loss": 0.0 if loss != loss else loss}), flush=True)
    write(paths[1], new[:3] if fault == "shape" else new, examples=own, steps=1, metrics={"loss": 0.0 if loss != loss else loss})
else:
    w = read(paths[0])
    Path(paths[1]).write_text('["nothing"]' if fault == "metrics" else json.dumps({"distance": abs(own - w[0]), "examples": own}))
"""


def write_package(folder: Path, python: str = sys.executable) -> Path:
    """The package, in a folder of its own."""
    folder.mkdir(parents=True)
    (folder / "client.py").write_text(PROGRAM)
    entries = {entry: [python, "client.py", entry] for entry in ("train", "validate", "seed")}
    (folder / "client.yaml").write_text(yaml.safe_dump({"name": "half-way", "entry_points": entries}))
    return folder


def a_session(folder: Path, *, python: str = sys.executable, **changes: Any) -> SessionConfiguration:
    """A session of that package, below `folder`: three rounds from a model of zeros."""
    package = folder / "package"
    if not package.exists():
        write_package(package, python)
        save(folder / "seed.safetensors", {"w": np.zeros(4)})
    fields: dict[str, Any] = {
        "name": "test", "user": "ada", "package": str(package), "model": str(folder / "seed.safetensors"), "rounds": 3, "round_timeout": 60.0,
        "retries": 0, "timeout": 120.0,
    }  # fmt: skip
    return SessionConfiguration(**fields | changes)


def step(w: float, clients: list[float]) -> float:
    """The value that a round of FedAvg gives, with these clients counted."""
    return sum(own * (w + (own - w) / 2) for own in clients) / sum(clients)


def value(model: ModelFile) -> float:
    """The one number that its tensor is full of."""
    (found,) = set(model.load()["w"])
    return float(found)
