"""The site's wheel holds `fdn_worker` alone, and a site that installs it gets a working command and neither Prefect nor pandas."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What a site must not have to install.
CENTRE_ONLY = ("prefect", "pandas", "minio", "sqlalchemy", "sklearn", "flows", "blocks", "storage", "federation")
CHECK = "import importlib.util, sys; sys.exit(', '.join(n for n in sys.argv[1:] if importlib.util.find_spec(n)) or 0)"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fem-wheel-") as name:
        folder = Path(name)
        wheel = build(folder)
        names = contents(wheel)
        strange = sorted(entry for entry in names if not entry.startswith(("fdn_worker/", "fdn_worker-")))
        if strange or "fdn_worker/protocol/__init__.py" not in names or any(entry.endswith((".pyc", ".toml")) for entry in names):
            sys.exit(f"{wheel.name} must hold the modules of fdn_worker and nothing else; it holds {strange or sorted(names)}")
        version = install(wheel, folder / "site")
    sys.stdout.write(f"{wheel.name}: fdn_worker alone; in a fresh environment `fdn-worker --version` says {version}\n")


def build(folder: Path) -> Path:
    """Built from a copy: a build in the tree could leave things behind."""
    source = folder / "source"
    shutil.copytree(ROOT / "fdn_worker", source, ignore=shutil.ignore_patterns("__pycache__"))
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(folder / "wheels"), str(source))
    (wheel,) = (folder / "wheels").glob("*.whl")
    return wheel


def contents(wheel: Path) -> set[str]:
    """Names of its members."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def install(wheel: Path, site: Path) -> str:
    """Into an environment of its own; the version that the command tells there."""
    venv.create(site, with_pip=True)
    pip(str(site / "bin/python"), "install", "-c", str(ROOT / "constraints.txt"), str(wheel))
    # Isolated (-I): the checkout must not be importable from here.
    found = subprocess.run([site / "bin/python", "-I", "-c", CHECK, *CENTRE_ONLY], capture_output=True, text=True, cwd=site, check=False)
    if found.returncode != 0:
        sys.exit(f"a site's installation pulls in {found.stderr.strip()}")
    told = subprocess.run([site / "bin/fdn-worker", "--version"], capture_output=True, text=True, cwd=site, check=False)
    if told.returncode != 0:
        sys.exit(f"`fdn-worker --version` failed in a fresh environment:\n{told.stderr}")
    return told.stdout.strip()


def pip(python: str, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


if __name__ == "__main__":
    main()
