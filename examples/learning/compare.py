"""`python -m examples.learning.compare FILE`: what a federation is worth, for a session whose data are made on this machine.

The session is run as `fem learn` runs it, in a home of its own; then the same package is trained, for as many epochs, on all data in one
place, and by each site on what it has. All models are judged by all examples for testing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fdn_worker.errors import FdnError
from federation.centre import Centre
from federation.learning.local_client import Arrays, LocalClient, Settings, local_client
from federation.learning.models import ModelFile
from federation.learning.package import Package
from federation.learning.session import SessionRefused, load_session
from federation.learning.trail import Trail
from federation.settings import CentreSettings

FEM = Path(sys.executable).parent / "fem"


def main() -> None:
    """Run the session, train the others, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m examples.learning.compare", description="Federated, centralised, and each site alone.")
    parser.add_argument("file", type=Path, help="a session's file with a section `local`")
    try:
        compare(parser.parse_args().file)
    except FdnError as error:
        sys.exit(f"compare: {error}")


def compare(file: Path) -> None:
    """The table for one session."""
    asked = load_session(file)
    if asked.local is None:
        raise SessionRefused(f"{file}: there is no section `local`", remedy="data that lie at sites cannot be trained on in one place")
    federated, rounds = session_model(file)
    package = Package.load(Path(asked.package))
    settings = package.settings | asked.settings
    client, shares = local_client(package, "in-process"), asked.local.shares()
    test = union([share["test"] for share in shares.values()])
    table = Table("trained", "examples", "accuracy", "loss", box=None, header_style="bold", title=f"{asked.name}: {rounds} rounds")

    def row(name: str, examples: int, model: Arrays) -> None:
        said = client.validate(model, settings, test)
        table.add_row(name, f"{examples:,}", f"{said['accuracy']:.4f}", f"{said['loss']:.4f}")

    whole = union([share["train"] for share in shares.values()])
    row("federated", len(whole["y"]), federated)
    row("in one place", len(whole["y"]), trained(client, settings, whole, rounds))
    for site, share in shares.items():
        row(f"{site} alone", len(share["train"]["y"]), trained(client, settings, share["train"], rounds))
    Console().print(table)


def session_model(file: Path) -> tuple[Arrays, int]:
    """The last model of the session, and its round."""
    with tempfile.TemporaryDirectory(prefix="fem-compare-") as folder:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FEM_", "FDN_"))}
        done = subprocess.run([FEM, "learn", file], env=clean | {"FEM_HOME": folder}, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        with closing(Centre.open(CentreSettings(home=Path(folder)))) as centre:
            last = max(centre.records.learning.models(), key=lambda model: model.round)
            return ModelFile(Trail(centre).fetch(last, Path(folder, "last.safetensors"))).load(), last.round


def trained(client: LocalClient, settings: Settings, data: Arrays, rounds: int) -> Arrays:
    """The seed model, trained on these data alone for the epochs of so many rounds."""
    model = client.seed(settings)
    for _ in range(rounds):
        model = client.train(model, settings, data).model
    return model


def union(parts: list[Arrays]) -> Arrays:
    """All examples of several sites."""
    return {name: np.concatenate([part[name] for part in parts]) for name in ("x", "y")}


if __name__ == "__main__":
    main()
