"""The environment of every Git command at the centre, in one place: what it may not do is the same wherever it is called."""

from __future__ import annotations

import os


def git_environment(*, allow_file: bool) -> dict[str, str]:
    """None of Git's own settings and no repository round about may rewrite an address; nobody is asked for a password."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
        "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ALLOW_PROTOCOL": "https:file" if allow_file else "https",
    }  # fmt: skip
