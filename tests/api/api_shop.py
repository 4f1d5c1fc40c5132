"""What tests of the API hold in their hands."""

from __future__ import annotations

import contextlib
import os
import signal
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

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End the whole process group; the exit code of its head."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()

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
        sent = {"content": data} if isinstance(data, bytes) else {"data": data}
        return httpx.request(method, self.url + path, **sent, timeout=30,
                             headers={name.replace("_", "-"): value for name, value in headers.items()})
