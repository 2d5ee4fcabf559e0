"""A real HTTP server for a folder, with ranges, that can be told to misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer(ThreadingHTTPServer):
    """`faults` are taken by the next requests, one each; then `delay_s` and honest answers.

    Faults: `500`, `truncate` (the promised length, half of the bytes), `flip` (one bit is wrong), `whole` (the range is
    ignored), `hang` (no answer until the server stops). Paths in `hanging` never answer, those in `dripping` send a
    byte every 0.05 seconds; `headers` are sent with every answer, by path.
    """

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that give up are what is tested."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.delay_s = folder, 0.0
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.hanging: set[str] = set()
        self.dripping: set[str] = set()
        self.headers: dict[str, dict[str, str]] = {}
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.path} {self.headers.get('Range')}")
        fault = self.server.faults.pop(0) if self.server.faults else ""
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file() or fault == "500":
            self.send_error(500 if fault == "500" else 404)
            return
        if fault == "hang" or self.path in self.server.hanging:
            self.server.stopped.wait()
            return
        time.sleep(self.server.delay_s)
        data, asked = bytearray(path.read_bytes()), self.headers["Range"]
        if fault != "whole" and asked:
            first, last = asked.removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
        if fault == "flip":
            data[len(data) // 2] ^= 1
        self.send_response(206 if asked and fault != "whole" else 200)
        for name, value in self.server.headers.get(self.path, {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.path in self.server.dripping:
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.server.stopped.wait(0.05)
        self.wfile.write(data[: len(data) // 2] if fault == "truncate" else data)
        self.close_connection = fault == "truncate"

    def log_message(self, *arguments: object) -> None:
        """Nothing: pytest shows what fails."""
