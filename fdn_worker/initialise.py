"""What `fdn-worker init` writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fdn_worker.errors import SettingsError
from fdn_worker.protocol import Signer
from fdn_worker.protocol.envelope import make_key
from fdn_worker.protocol.names import check_id

TEMPLATE = """\
# Settings of a federated data node. Each key may be overridden by a variable: FDN_SLOTS=4, FDN_BROKER__URL=...

# This site's id, as the centre enrols it: a-z, 0-9 and -.
node = {node}
# A name for people.
display_name = ""
# Journal, sandboxes and caches; on a disk with room for them.
state_dir = {state_dir}

# Tasks that run at once, and orders that are taken in beyond those; more wait at the broker.
slots = 2
backlog = 64
# Seconds between TERM and KILL when a task is to end.
grace = 10

# What starts a task. `process` runs it without a container, unprotected: for development alone.
launcher = "docker"
allowed_launchers = ["docker"]
# Whether a task may ask for the network.
allow_network = false
# When a task's log lines leave the site: live, after-release (with the outputs alone) or never.
logs = "live"

# Data stays at home: an order may name a dataset, which is mounted read-only. Each folder must lie under a root.
data_roots = []
[datasets]
# census = "/srv/data/census"

[broker]
# The only connection that a site opens: outgoing, TLS.
url = {broker}

[keys]
# This node signs what it says with its private key, which never leaves the site,
{private}
# and obeys orders signed by these alone: key id = public key, as the centre gives it.
[keys.trusted]
# centre = "..."

[launchers.docker]
# always, if-not-present or never
pull_policy = "if-not-present"

[limits]
# An order may ask for no more than this (the default is what the machine has).
# cpus = 4
# memory = "8GiB"
# Seconds.
timeout = 2592000
log_bytes = "64MiB"
# Free disk below which no order is taken.
disk_reserve = "1GiB"

[transfer]
# The store's address as this site sees it; `fdn-worker check` alone uses it.
store = ""
parallel = 4
part_size = "16MiB"
# Seconds for which outputs are kept and tried again while the store is away.
keep_trying = 604800
# Take file:// addresses; only where node and centre share a machine.
allow_file = {embedded}
"""


def initialise(node: str, path: Path, broker: str, state_dir: Path) -> str:
    """Write settings file and key; the public key in base64, "" for an embedded federation, which has none."""
    check_id(node, "node")
    if path.exists():
        raise SettingsError(f"{path} exists already", remedy="edit it, or name another with --settings")
    embedded = broker.startswith("sqlite:")
    key = path.absolute().parent / f"{node}.key"
    text = TEMPLATE.format(
        node=json.dumps(node), state_dir=json.dumps(str(state_dir)), broker=json.dumps(broker), embedded=str(embedded).lower(),
        private="# (an embedded federation works unsigned)" if embedded else f"private = {json.dumps(str(key))}",
    )  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        public = ""
        if not embedded:
            make_key(key)
            public = Signer.load(node, key).public_key()
        # It holds the broker's password.
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(text)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", remedy="name a place that you may write, with --settings") from error
    return public
