"""The policy that `fdn-worker init` writes: commented, and allowing nothing."""

from __future__ import annotations

import os
from pathlib import Path

from fdn_worker.errors import SettingsError

EXAMPLE = """\
# Who may run what on which data, at this node, whatever the centre says. In force once the settings name it:
# policy = "{path}"
#
# What no rule allows is refused. A rule that denies goes before all that allow; else the first one in this file that allows
# the whole order decides. Patterns: `*` and `?` stay between slashes, `**` crosses them. It is read anew when it changes.
# Try it out: `fdn-worker policy lint`, `fdn-worker policy test ORDER`.

# Whose signatures of images count, as `fem sign-image` prints them.
[signers]
# author = "..."

# [[rule]]
# id = "no-guests"
# effect = "deny"
# users = ["guest-*"]

# [[rule]]
# # Decisions are recorded by this name, and max_runs is counted by it.
# id = "census-means"
# effect = "allow"
# # For whom, and what: all that is named here must hold, and what is not named is not asked.
# users = ["*@uni.example"]
# projects = ["census-2030"]
# tools = ["mean", "histogram"]
# images = ["registry.example/tools/*"]
# digests = ["sha256:..."]
# signed_by = ["author"]
# until = 2030-12-31T00:00:00Z
# # What it gets: what is not named is not granted.
# datasets = ["census"]
# network = "none"        # or server (of its own execution), proxy, open
# sources = ["https://git.example/tools/*"]
# launchers = ["docker"]
# shelves = ["models"]
# secrets = ["token"]
# host_paths = ["/srv/shared"]
# keep_sandboxes = false
# # And how much at most: what is not named is bounded by the settings alone.
# cpus = 4
# memory = "8GiB"
# timeout = 3600
# max_runs = 100
# max_at_once = 2
"""


def write_example(beside: Path) -> Path | None:
    """Write it as policy.toml beside the settings; None where there is one."""
    path = beside.absolute().parent / "policy.toml"
    try:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(EXAMPLE.format(path=path))
    except FileExistsError:
        return None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", remedy="name a place that you may write, with --settings") from error
    return path
