"""Hosts that are this machine, to which a credential may go unencrypted, and their names."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

_THIS_MACHINE = "127.0.0.1"


def is_localhost(name: str) -> bool:
    """Return whether a host name is `localhost` or ends in it: always this machine (RFC 6761)."""
    return f".{name.lower().rstrip('.')}".endswith(".localhost")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address, as in a URL but without brackets, is this machine."""
    if is_localhost(host):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_link_local(host: str) -> bool:
    """Return whether a host is an address that no router forwards, as of metadata servers."""
    try:
        return ip_address(host).is_link_local
    except ValueError:
        return False


def canonical(host: str) -> str:
    """Return one spelling for all spellings of a host.

    `127.1`, `0x7f.1`, `::1` and `localhost.` are the same host.
    """
    name = host.lower().rstrip(".")
    address: IPv4Address | IPv6Address
    try:
        # `inet_aton` accepts every spelling of an IPv4 address.
        address = IPv4Address(socket.inet_aton(name))
    except OSError:
        try:
            address = ip_address(name)
        except ValueError:
            return _THIS_MACHINE if is_loopback(name) else name
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    is_this_machine = address.is_unspecified or address == IPv6Address("::1")
    return _THIS_MACHINE if is_this_machine else str(address)
