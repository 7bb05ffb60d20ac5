"""Another process, for as long as a test looks at it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def child(words: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command whose end is waited for, but which is killed where the test fails: `Popen` by itself would wait for ever."""
    with subprocess.Popen(words, text=True, **options) as process, ExitStack() as failed:
        failed.callback(process.kill)
        yield process
        failed.pop_all()
