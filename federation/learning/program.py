"""The federation's own program for nodes, as one file: `python3 learning.pyz COMMAND INPUTS SANDBOX` (see at_node.py).

It is made of this package's modules as they stand, so that a combiner folds by the same lines as the centre. A node needs Python 3.11 with numpy,
safetensors and pydantic for it, and cryptography for a secure sum. The same modules give the same bytes: entries are sorted, stored as they are, and of 1980.
"""

from __future__ import annotations

import functools
import hashlib
import io
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from fdn_worker.protocol import InputFile
from storage.keys import package_key
from storage.objects import ObjectStore

#: Its name among the inputs of a task.
PROGRAM = "learning.pyz"
#: All that at_node.py imports of ours; none of them imports more.
MODULES = (
    "fdn_worker/__init__", "fdn_worker/errors", "federation/__init__",
    *(f"federation/learning/{name}" for name in (
        "__init__", "accumulator", "aggregator", "at_node", "linear", "models", "privacy", "rounds", "secure_partial", "secure_sum",
    )),
)  # fmt: skip
MAIN = "from federation.learning.at_node import main\n\nmain()\n"


@functools.cache
def program() -> bytes:
    """The archive."""
    top = Path(__file__).parents[2]
    texts = {f"{name}.py": (top / f"{name}.py").read_text(encoding="utf-8") for name in MODULES} | {"__main__.py": MAIN}
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, text in sorted(texts.items()):
            archive.writestr(ZipInfo(name), text)
    return buffer.getvalue()


def stored_program(store: ObjectStore) -> InputFile:
    """The archive in the store, once for all sessions."""
    content = program()
    sha256 = hashlib.sha256(content).hexdigest()
    key = package_key(sha256, PROGRAM)
    if (there := store.stat(key)) is None or there.size != len(content):
        store.put(key, io.BytesIO(content), len(content))
    return InputFile(name=PROGRAM, size=len(content), sha256=sha256, where=key)
