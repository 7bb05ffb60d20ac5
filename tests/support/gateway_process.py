"""`fem serve` as a process of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import eventually


@contextmanager
def serving(environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Its address, once it listens. What it says goes to `folder`/serve.log."""
    log = folder / "serve.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(["fem", "serve", "--port", "0"], env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)

    def address() -> str:
        assert process.poll() is None, log.read_text()
        found = re.search(r"^serving at (\S+)$", log.read_text(), re.MULTILINE)
        return found[1] if found else ""

    try:
        yield eventually("the gateway serves", address)
    finally:
        process.terminate()
        process.wait()
