"""Ports of this machine that nobody has at present."""

from __future__ import annotations

import os
import socket

#: Each of the processes that run tests at once looks in a part of its own: what is free is not held until it is used.
OWN = 200 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_ports(count: int, begin: int = 23000) -> tuple[int, int]:
    """The first and the last of `count` ports in a row, from `begin` on."""
    for first in range(begin + OWN, 32000, count):
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first, first + count - 1
    raise AssertionError("no free ports")
