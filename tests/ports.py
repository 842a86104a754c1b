"""Ports for tests: one where nobody listens, and where nobody else will."""

from __future__ import annotations

import os
import socket
from itertools import count
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST, _APART = 20_000, 61
_places = count()


def free_port() -> int:
    """A port that is free, and stays so until somebody asks for this very number.

    It lies below those that the system hands out by itself, to whoever binds port 0 or opens a
    connection: so no other process of this machine is given it before it is listened on, nor
    between two servers that listen on it one after the other. Each process of the tests begins at a
    place of its own, and gives no port twice.
    """
    try:
        room = int(_RANGE.read_text().split()[0]) - _FIRST
    except OSError:  # no Linux
        room = 10_000
    assert room > 1000, f"this machine hands out ports from {_FIRST + room} on"
    for place in _places:
        port = _FIRST + (os.getpid() * _APART + place) % room
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError
