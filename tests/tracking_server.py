"""A real `mlflow server`, and a proxy before it that makes it look dead, hung, broken or slow."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

START_S = 120.0
Mood = Literal["well", "hangs", "broken", "slow", "dies"]


class TrackingServer:
    """`mlflow server` on loopback with a sqlite file in `folder`; started, killed and started again on one port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"),
            *("--artifacts-destination", str(self._folder / "artifacts")),
        ]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return
            assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)
        raise AssertionError(f"mlflow server has not started after {START_S:.0f} s")

    def kill(self) -> None:
        """With its workers, at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


class Proxy(socketserver.ThreadingTCPServer):
    """Passes connections on while it is well; otherwise does what `mood` says. `requests` counts connections
    and answers.

    `dies`: passes the request on and closes before the answer, so that the client cannot know what became of it.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.target, self.mood, self.requests, self.delay_s = target, "well", 0, 0.3
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Connection(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        self.server.requests += 1
        mood = self.server.mood
        if mood == "hangs":
            self.server.ended.wait(60)
        elif mood == "broken":
            self.request.recv(1 << 16)
            self.request.sendall(
                b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"
            )
        else:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.server.target)) as upstream:
                pump = threading.Thread(target=_pump, args=(self.request, upstream), daemon=True)
                pump.start()
                self._answer(upstream, mood)

    def _answer(self, upstream: socket.socket, mood: str) -> None:
        while data := upstream.recv(1 << 16):
            if mood == "dies" or self.server.mood not in ("well", "slow"):
                return
            self.server.requests += 1
            if self.server.mood == "slow":
                time.sleep(self.server.delay_s)
            self.request.sendall(data)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def proxied(target: int) -> Iterator[Proxy]:
    proxy = Proxy(target)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()
