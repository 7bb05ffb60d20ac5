"""`python -m examples.federation`: three hospitals and a Prefect server on this machine, to try `fem` on, until Ctrl-C."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

from examples.summary.data import SITES, share_out
from fdn_worker.errors import FdnError
from federation.catalogue.folder import load
from federation.local import LocalFederation
from federation.sync import carry_out, differing
from flows.server import prefect_server

ROOT = Path(__file__).resolve().parents[1]
SEED = ROOT / ".cache/prefect-seed.db"
#: What a site says in its settings so that a tool's server may run there and others reach it, and sandboxes may be kept.
SITE = {"address": "127.0.0.1", "ports": "27600-27699", "allow_network": True, "keep_sandboxes": True}


def main() -> None:
    """Start all of it in a folder of its own, say how to use it, and leave nothing behind."""
    stop = threading.Event()
    # A closed terminal sends SIGHUP.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    home = Path(tempfile.mkdtemp(prefix="fem-federation-"))
    say("starting three nodes and a Prefect server ...")
    try:
        local = LocalFederation(home, tuple(SITES), share_out(home / "data"), options=SITE)
        with prefect_server(home / "prefect", seed=SEED, ui=True) as client, local, local.connected() as centre:
            # Its relay hears the heartbeats, so that `fem nodes` knows who is there.
            catalogue = load(ROOT / "deployments/catalogue")
            carry_out(centre, catalogue, differing(centre, catalogue))
            variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in (local.environment() | client).items())
            say(f"\nIn another terminal:\n\nexport {variables}\n")
            say(f"Nodes: {', '.join(SITES)}\nEach has the dataset patients, with a file patients.csv.\nTools: {', '.join(catalogue.tools)}")
            say(f"Runs in the browser: {client['PREFECT_API_URL'].removesuffix('/api')}\nCtrl-C ends all of it.")
            stop.wait()
    except FdnError as error:
        sys.exit(f"federation: {error}")
    finally:
        shutil.rmtree(home)


def say(text: str) -> None:
    """Print it now, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
