"""Which TCP ports are listened on: as the kernel tells it, so that no server takes a probe for a client; else by a connection."""

from __future__ import annotations

import socket
from pathlib import Path

#: The state of a listening socket in /proc/net/tcp.
_LISTEN = "0A"
#: ::1, the end of 127.0.0.0/8, and what stands before it in tcp6, as the tables write addresses: 32 bits each in the machine's order.
_LOOPBACK_6, _LOOPBACK_4, _MAPPED = "00000000000000000000000001000000", "7F", "0000000000000000FFFF0000"


def listened(pid: int, *, loopback: bool) -> set[int] | None:
    """Ports with a listener in the network of process `pid`; those on loopback alone count on wish. None without such a process."""
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        try:
            rows = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except FileNotFoundError:
            if table == "tcp6":  # a machine without IPv6
                continue
            return None
        except OSError:
            return None
        for row in rows:
            _, local, _, state, *_ = row.split()
            address, _, port = local.partition(":")
            if state == _LISTEN and (loopback or not _is_loopback(address)):
                found.add(int(port, 16))
    return found


def connectable(address: str, port: int, timeout: float = 1.0) -> bool:
    """Whether somebody takes a connection there."""
    try:
        socket.create_connection((address, port), timeout).close()
    except OSError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    return address == _LOOPBACK_6 or (address.endswith(_LOOPBACK_4) and address[:-8] in ("", _MAPPED))
