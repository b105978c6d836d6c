"""
Whether a request that came over loopback was sent by a program of this machine, or by a web page.

A browser will send any page's requests to 127.0.0.1. A page that is not local names itself in
`Origin`; one that had its own name resolve to 127.0.0.1 (DNS rebinding) shows that name in `Host`.
The standard library only: the gateway and its replica both ask.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_local(host: str, origin: str | None) -> bool:
    """By the two headers' values; `origin` is None where there is none."""
    return is_loopback(f"//{host}") and (origin is None or is_loopback(origin))


def is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
