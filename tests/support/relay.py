"""`fem relay` as a process of its own, which a test may measure, or kill."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.rig import ROOT, Rig, eventually


def start_relay(rig: Rig) -> subprocess.Popen[bytes]:
    """`fem relay` as a process of its own, once it is up."""
    home = rig.federation.home
    environment = {**os.environ, **rig.federation.environment(), "FEM_STORE_URL": rig.centre.settings.store_url.get_secret_value()}
    with (home / "relay.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "relay"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, cwd=ROOT
        )
    ups = (home / "relay.log").read_text().count("relay is up")

    def up() -> bool:
        assert process.poll() is None, (home / "relay.log").read_text()
        return (home / "relay.log").read_text().count("relay is up") > ups

    eventually("the relay is up", up)
    return process
