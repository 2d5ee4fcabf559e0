"""A Hugging Face hub on the loopback interface: the three endpoints that a fetch uses, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LARGE = (".safetensors", ".bin")  # in large-file storage, where the hub states SHA-256


class Hub(ThreadingHTTPServer):
    """One repository at one commit. `sent` lists the transfers as (file, first byte)."""

    daemon_threads = True

    def __init__(self, repository: str, revision: str, files: dict[str, bytes], card: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository, self.revision, self.files, self.card = repository, revision, files, card
        self.sent: list[tuple[str, int]] = []
        self.cut_once: dict[str, int] = {}  # the connection ends after so many bytes, the first time
        self.hang_at: dict[str, int] = {}  # nothing more comes after so many bytes
        self.stated: dict[str, str] = {}  # a SHA-256 that is stated instead of the true one
        self.hanging, self.released = threading.Event(), threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def checksum(self, name: str) -> str:
        content = self.files[name]
        if name.endswith(LARGE):
            return self.stated.get(name, hashlib.sha256(content).hexdigest())
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def described(self, name: str) -> dict[str, Any]:
        size = len(self.files[name])
        large = {"lfs": {"sha256": self.checksum(name), "oid": self.checksum(name), "size": size, "pointerSize": 130}}
        git = "0" * 40 if name.endswith(LARGE) else self.checksum(name)
        return {"size": size, "blobId": git, "oid": git, **(large if name.endswith(LARGE) else {})}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, urlsplit(self.path).path
        if path == f"/api/models/{hub.repository}/revision/{hub.revision}":
            siblings = [{"rfilename": name, **hub.described(name)} for name in hub.files]
            return self._json(
                {"id": hub.repository, "sha": hub.revision, "siblings": siblings, "cardData": hub.card, "tags": []}
            )
        if path == f"/api/models/{hub.repository}/tree/{hub.revision}":
            return self._json([{"type": "file", "path": name, **hub.described(name)} for name in hub.files])
        start = f"/{hub.repository}/resolve/{hub.revision}/"
        if path.startswith(start) and path.removeprefix(start) in hub.files:
            return self._file(path.removeprefix(start))
        known = path.startswith((f"/api/models/{hub.repository}/", f"/{hub.repository}/"))
        return self._json({"error": "no"}, 404, "RevisionNotFound" if known else "RepoNotFound")

    def _json(self, value: Any, status: int = 200, code: str | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, name: str) -> None:
        hub, content = self.server, self.server.files[name]
        asked = self.headers.get("Range")
        first = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", hub.revision)
        self.send_header("ETag", f'"{hub.checksum(name)}"')
        self.send_header("Content-Length", str(len(content) - first))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        hub.sent.append((name, first))
        end = hub.cut_once.pop(name, hub.hang_at.get(name, len(content)))
        self.wfile.write(content[first:end])
        self.wfile.flush()
        if name in hub.hang_at:
            hub.hanging.set()
            hub.released.wait(30)
        if end < len(content):
            self.close_connection = True
