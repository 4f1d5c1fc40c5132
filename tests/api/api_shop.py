"""What tests of the API hold in their hands."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import stripe


@dataclass(frozen=True)
class Merchant:
    """An account and its key."""

    account: str
    key_id: str
    secret: str


@dataclass(frozen=True)
class Server:
    """A running API."""

    url: str
    process: subprocess.Popen[bytes]
    output: Path

    def sdk(self, merchant: Merchant, **options: Any) -> stripe.StripeClient:
        """Stripe's own client, with nothing changed but the address. No retries: tests see every answer."""
        options.setdefault("max_network_retries", 0)
        return stripe.StripeClient(merchant.secret, base_addresses={"api": self.url}, **options)

    def raw(
        self, merchant: Merchant | None, method: str, path: str, data: Any = None, **headers: str
    ) -> httpx.Response:
        """A request without the SDK."""
        if merchant:
            headers.setdefault("authorization", f"Bearer {merchant.secret}")
        return httpx.request(method, self.url + path, data=data, timeout=30,
                             headers={name.replace("_", "-"): value for name, value in headers.items()})
