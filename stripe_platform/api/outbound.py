"""Calls to addresses that merchants chose: only http and https, only where a merchant may send us.

The address is resolved once, judged, and connected to as judged: a name that points elsewhere a moment later does not
matter. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

LONGEST_URL = 2048


class AddressError(ValueError):
    """An address we do not call; the message says why and never which."""


def check_url(url: str, *, local: bool) -> None:
    """Refuse what cannot be an endpoint. `local`: this is a developer's machine, plain http and loopback are fine."""
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise AddressError("the URL cannot be read: check it") from None
    if len(url) > LONGEST_URL or not url.isascii() or any(c <= " " for c in url):
        raise AddressError("the URL is too long or has characters a URL cannot have: shorten or encode it")
    if parts.scheme != "https" and not (local and parts.scheme == "http"):
        raise AddressError("the URL must begin with https://")
    if not host or parts.username is not None or parts.password is not None or port == 0:
        raise AddressError("the URL must name a host and carry no credentials")
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return
    _judge(literal, local=local)


def _judge(address: ipaddress.IPv4Address | ipaddress.IPv6Address, *, local: bool) -> None:
    """Only addresses of the public internet; locally loopback too, metadata services (link-local) never."""
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if address.is_global and not address.is_multicast:
        return
    if local and address.is_loopback:
        return
    raise AddressError("the URL leads to a private or reserved address: give one on the public internet")


def post(url: str, body: bytes, headers: Mapping[str, str], *, local: bool, timeout: float) -> int:
    """The status of the answer. `AddressError` for what is not called, `OSError` and `HTTPException` for failures."""
    check_url(url, local=local)
    parts = urlsplit(url)
    host, secure = str(parts.hostname), parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, place in found:
        _judge(ipaddress.ip_address(str(place[0]).split("%")[0]), local=local)
    connection = _Pinned(host, port, str(found[0][4][0]), timeout, ssl.create_default_context() if secure else None)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, dict(headers))
        answer = connection.getresponse()
        answer.read(4096)
        return answer.status
    finally:
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to one judged address, under the name it was asked for."""

    def __init__(self, host: str, port: int, address: str, timeout: float, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=timeout)
        self._address, self._context = address, context

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._context:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)
