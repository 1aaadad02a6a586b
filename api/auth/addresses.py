"""Where a request comes from: its address behind proxies that are trusted, as a group, and anonymised.

`X-Forwarded-For` is a claim of the sender. It is read only from a trusted proxy, from the right, up to the first
address that is not a trusted proxy (MDN, "X-Forwarded-For",
https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/X-Forwarded-For).
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from marketdata.errors import SettingsError

Networks = tuple[IPv4Network | IPv6Network, ...]
UNKNOWN = "unknown"

# A customer's own network: who has one IPv6 address usually has all of a /64.
_GROUP_BITS = 64
_ANONYMOUS_BITS = {4: 24, 6: 48}


def read_networks(text: str, variable: str) -> Networks:
    """Return networks written with commas. Raises SettingsError that names the variable."""
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}; write addresses or networks, such as 127.0.0.1,10.0.0.0/8") from None


def client_address(peer: str | None, forwarded: str, trusted: Networks) -> str:
    """Return the address of a client, from the peer's address and X-Forwarded-For ("" if there is none)."""
    if not forwarded or not trusted:
        return _canonical(peer or "")
    address = _parsed(peer or "")
    if address is None:
        return UNKNOWN
    for claim in reversed(forwarded.split(",")):
        if not _within(address, trusted):
            break
        claimed = _parsed(claim.strip())
        if claimed is None:
            break
        address = claimed
    return str(address)


@lru_cache(maxsize=4096)
def is_loopback(text: str) -> bool:
    """Return whether an address, or the name localhost, means this machine."""
    address = _parsed(text)
    return text == "localhost" if address is None else address.is_loopback


@lru_cache(maxsize=4096)
def group_of(text: str) -> str:
    """Return what is limited as one client: an IPv4 address, or the /64 of an IPv6 address."""
    address = _parsed(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _GROUP_BITS), strict=False))
    return text


def anonymised(text: str) -> str:
    """Return the network that an address is in: /24 for IPv4, /48 for IPv6."""
    address = _parsed(text)
    return text if address is None else str(ip_network((address, _ANONYMOUS_BITS[address.version]), strict=False))


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    address = _parsed(text)
    return UNKNOWN if address is None else str(address)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _within(address: IPv4Address | IPv6Address, networks: Networks) -> bool:
    return any(address.version == network.version and address in network for network in networks)
