"""A clone of this checkout, what is not committed included, that a test may write to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AUTHOR = ("-c", "user.name=test", "-c", "user.email=test@example.org")


def clone(folder: Path) -> Path:
    """Make `folder` a Git repository on branch main; returns it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():  # a file that was deleted, but not committed so, is listed still
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main"], cwd=folder, check=True)
    commit(folder, "as it stands")
    return folder


def commit(repository: Path, message: str) -> None:
    """Commit all that has changed."""
    for words in (("add", "--all"), (*AUTHOR, "commit", "--quiet", "--message", message)):
        subprocess.run(["git", *words], cwd=repository, check=True)
