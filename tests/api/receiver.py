"""A merchant's webhook endpoint: answers as told, remembers what came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Got = tuple[bytes, str]


class Receiver:
    """Listens on loopback until closed. `answers` are given in turn, then 200."""

    def __init__(self, *answers: int, hangs: float = 0) -> None:
        self.got: list[Got] = []
        left = list(answers)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append((body, self.headers["stripe-signature"]))
                time.sleep(hangs)
                self.send_response(left.pop(0) if left else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def wait(self, wanted: Callable[[list[Got]], bool], seconds: float = 20) -> list[Got]:
        """What came, as soon as it is what was wanted."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if wanted(self.got):
                return self.got
            time.sleep(0.05)
        raise AssertionError(f"{len(self.got)} deliveries came, not those wanted")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
