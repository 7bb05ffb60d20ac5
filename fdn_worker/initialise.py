"""What `fdn-worker init` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fdn_worker.errors import SettingsError
from fdn_worker.protocol import Signer
from fdn_worker.protocol.envelope import make_key
from fdn_worker.protocol.names import check_id
from fdn_worker.settings import load

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
# The site's policy: who may run what on which data. Without one these settings alone decide, for everybody alike.
# policy = {policy}
# Whether a task may ask for the network, or at least reach the server of its own execution; with a policy, that says so.
allow_network = false
allow_servers = false
# To let tasks be servers: where other sites reach this machine, and ports that may be published there.
# address = "site.example"
# ports = "20000-20999"
# What the centre may do with the images here: none, list or manage (pull and remove too).
images = "list"
# When a task's log lines leave the site: live, after-release (with the outputs alone) or never.
logs = "live"

# Whether a task may have its sandbox kept for the next one of its user, and days after which an unused one goes.
keep_sandboxes = false
keep_days = 30

# Data stays at home: an order may name a dataset, which is mounted read-only. Each folder must lie under a root.
data_roots = []
# Folders below which an order may have paths of its own choice mounted, read-only.
host_paths = []
[datasets]
# census = "/srv/data/census"
# Results that are to stay here are copied to a shelf.
[shelves]
# models = "/srv/models"
# Secrets that a task may be given, as files from memory: name = the site's own file.
[secrets]
# NAME = value, for every task: in its environment, and for $NAME in its command.
[variables]

[broker]
# The only connection that a site opens: outgoing, TLS.
url = {broker}

[keys]
# This node signs what it says with its private key, which never leaves the site,
{private}
# and obeys orders signed by these alone: key id = public key, as the centre gives it.
[keys.trusted]
{trusted}
# and by these no more, though they may stand above: key id = why.
[keys.revoked]
# centre = "replaced by centre-2"

[launchers.docker]
# always, if-not-present or never
pull_policy = "if-not-present"

[release]
# What leaves of a task's outputs, and of its log with logs = "after-release": the first rule that fits a file decides.
# Without a rule and a default everything leaves that the order's patterns match. `fdn-worker release` shows what waits.
# default = "person"
# [[release.rules]]
# id = "tables"
# files = ["**/*.csv"]
# kinds = ["csv"]
# max_size = "1MiB"
# action = "check"
# checks.csv = {{ min_count = 10, count_columns = ["n", "*_count"], max_rows = 1000, forbidden_columns = ["*name*", "*birth*"] }}

[limits]
# An order may ask for no more than this (the default is what the machine has).
# cpus = 4
# memory = "8GiB"
# Seconds.
timeout = 2592000
log_bytes = "64MiB"
# Free disk below which no order is taken.
disk_reserve = "1GiB"

[budget]
# Over these, what is old goes: kept sandboxes, images that the worker pulled, ended attempts in the journal.
# sandboxes = "100GiB"
# images = "50GiB"
# keep_images = ["registry.example/study/*"]
journal = "256MiB"

[transfer]
# How files travel: "store", straight there, or "broker", where the broker is all that this site reaches.
by = "store"
# The store's address as this site sees it; `fdn-worker check` alone uses it.
store = {store}
parallel = 4
part_size = "16MiB"
# Seconds for which outputs are kept and tried again while the store is away.
keep_trying = 604800
# Take file:// addresses; only where node and centre share a machine.
allow_file = {embedded}
"""


def settings_text(
    node: str, broker: str, state_dir: Path, *, private: Path | None, trusted: Mapping[str, str] = MappingProxyType({}), store: str = ""
) -> str:  # fmt: skip
    """A settings file with comments. `private` is the node's key file, None in an embedded federation; `trusted` key id -> public key."""
    return TEMPLATE.format(
        node=json.dumps(node), state_dir=json.dumps(str(state_dir)), broker=json.dumps(broker), store=json.dumps(store),
        policy=json.dumps("/etc/fdn-worker/policy.toml"),
        embedded=str(broker.startswith("sqlite:")).lower(),
        private="# (an embedded federation works unsigned)" if private is None else f"private = {json.dumps(str(private))}",
        trusted="\n".join(f"{json.dumps(key_id)} = {json.dumps(key)}" for key_id, key in trusted.items()) or '# centre = "..."',
    )  # fmt: skip


def initialise(node: str, path: Path, broker: str, state_dir: Path) -> str:
    """Write settings file and key; the public key in base64, "" for an embedded federation, which has none.

    A settings file that stands there already, such as one of the centre's bundle, is kept, and gets the key that it names.
    """
    check_id(node, "node")
    if path.exists():
        return _key_of(node, path)
    embedded = broker.startswith("sqlite:")
    key = path.absolute().parent / f"{node}.key"
    text = settings_text(node, broker, state_dir, private=None if embedded else key)
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


def _key_of(node: str, path: Path) -> str:
    """Make the key that the settings name, if it is not there yet; its public half."""
    settings = load(path)
    if settings.node != node:
        raise SettingsError(
            f"{path} is of node {settings.node!r}", remedy=f"`fdn-worker init {settings.node}`, or name another with --settings"
        )
    key = settings.keys.private
    if key is None or key.exists():
        raise SettingsError(
            f"{path} exists already{'' if key is None else f', and so does {key}'}", remedy="edit it, or name another with --settings"
        )
    try:
        make_key(key)
    except OSError as error:
        raise SettingsError(f"{key}: {error.strerror}", remedy="run it as the user of the worker, or mend keys.private") from error
    return Signer.load(node, key).public_key()
