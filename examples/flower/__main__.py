"""`make flower`: a Flower app at three nodes of this machine, as one execution. `python -m examples.flower VENV` takes flwr from that environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from federation.learning.local_data import LocalData
from federation.local import LocalFederation

FEM = Path(sys.executable).parent / "fem"
TOOL = Path(__file__).with_name("flower.yaml")
#: What a site says in its settings so that a tool's server may run there, and others reach it.
SITE = {"address": "127.0.0.1", "ports": "27800-27899", "allow_network": True}


def main(environment: Path) -> int:
    """Run the tool as `fem run` does, with the output that it has; its exit code."""
    data = LocalData(nodes=3)
    with tempfile.TemporaryDirectory(prefix="fem-flower-") as folder:
        home = Path(folder)
        path = {"path": f"{(environment / 'bin').absolute()}:/usr/local/bin:/usr/bin:/bin"}
        local = LocalFederation(home, data.names(), data.write(home / "data"), options=SITE, launcher_options=path)
        with local, local.connected():
            command: list[str | Path] = [FEM, "run", TOOL, "--node", "all", "--server-node", data.names()[0]]
            return subprocess.run(command, env=os.environ | local.environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
