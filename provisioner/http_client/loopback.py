"""Hosts that are this very machine, to which a credential may go in the clear, and their names."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

_THIS_MACHINE = "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Whether a host name or address, as a url has it without brackets, is of this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def canonical(host: str) -> str:
    """Return one spelling for all of a host: `127.1`, `0x7f.1`, `::1` and `localhost.` are one."""
    name = host.lower().rstrip(".")
    address: IPv4Address | IPv6Address
    try:
        # What the system takes for an address of four bytes, in all of its spellings.
        address = IPv4Address(socket.inet_aton(name))
    except OSError:
        try:
            address = ip_address(name)
        except ValueError:
            return _THIS_MACHINE if is_loopback(name) else name
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    this = address.is_unspecified or address == IPv6Address("::1")
    return _THIS_MACHINE if this else str(address)
