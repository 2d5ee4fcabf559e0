"""The page and its API over HTTP, on this machine's loopback address alone, for who has the secret in its address.

Other pages that the same browser has open must reach nothing here: a request whose Host is not this server's (DNS
rebinding) or whose Origin is another page's is refused, and all that changes anything needs a content type for which a
browser asks the server first (https://fetch.spec.whatwg.org/#cors-safelisted-request-header).
"""

from __future__ import annotations

import hmac
import json
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from seed_dist.chat.api import Api, MissingError, Reply
from seed_dist.chat.page import CONTENT_POLICY, page
from seed_dist.chat.session import MAX_UPLOAD_BYTES
from seed_dist.errors import ConfigError, SeedDistError

ADDRESS = "127.0.0.1"
_MAX_JSON_BYTES = 200_000
_SILENCE_S = 30  # of a client in the middle of a request
_CHUNK_BYTES = 1 << 16
_LONGEST_NUMBER = 18  # digits; Python refuses to read very long ones


class ChatServer(ThreadingHTTPServer):
    """`url` is where the page is; the secret in it is new for every server. Raises ConfigError for a port in use."""

    daemon_threads = True

    def __init__(self, api: Api, port: int) -> None:
        self.api, self.secret = api, secrets.token_urlsafe(16)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise ConfigError([f"--port {port} cannot be used: {error.strerror}; 0 finds a free one"]) from error
        self.hosts = tuple(f"{name}:{self.server_address[1]}" for name in (ADDRESS, "localhost"))

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no defect of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://{self.hosts[0]}/{self.secret}/"


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        self.status = status
        super().__init__(message)


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "seed_dist", ""
    timeout = _SILENCE_S

    def do_GET(self) -> None:
        self._answer(lambda path: self.server.api.get(path) if path else Reply(page(), "text/html; charset=utf-8"))

    def do_POST(self) -> None:
        self._answer(lambda path: self.server.api.post(path, self._body(path)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the library gave it
        """Addresses hold the secret, so none is written anywhere."""

    def _answer(self, make: Callable[[str], Reply]) -> None:
        try:
            self._send(HTTPStatus.OK, make(self._path()))
        except _RefusedError as error:
            self.close_connection = True  # what else the client sent was not read
            self._send(error.status, _message(str(error)))
        except MissingError as error:
            self._send(HTTPStatus.NOT_FOUND, _message(str(error)))
        except SeedDistError as error:
            self._send(HTTPStatus.BAD_REQUEST, _message(str(error)))

    def _path(self) -> str:
        """What follows the secret. Raises _RefusedError."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host not in self.server.hosts:
            raise _RefusedError(
                HTTPStatus.FORBIDDEN,
                f"this server answers to {' and '.join(self.server.hosts)}, not to {host[:100]!r}. To reach it from "
                "another machine, forward the same port with ssh -L.",
            )
        if origin is not None and origin not in [f"http://{name}" for name in self.server.hosts]:
            raise _RefusedError(HTTPStatus.FORBIDDEN, f"requests of other pages ({origin[:100]!r}) are refused.")
        _, secret, *rest = [*urlsplit(self.path).path.split("/", 2), ""]
        if not hmac.compare_digest(secret.encode(errors="replace"), self.server.secret.encode()):
            raise _RefusedError(HTTPStatus.NOT_FOUND, "open the whole address that the command printed.")
        return rest[0]

    def _body(self, path: str) -> bytes:
        """Raises _RefusedError for what is not announced, too large, of the wrong type, or ends too early."""
        is_file = self.server.api.takes_a_file(path)
        wanted = "application/octet-stream" if is_file else "application/json"
        most = MAX_UPLOAD_BYTES if is_file else _MAX_JSON_BYTES
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or len(length) > _LONGEST_NUMBER:
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is (Content-Length).")
        if int(length) > most:
            self._drain(int(length))
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has {length} bytes; at most {most} are allowed."
            )
        if self.headers.get_content_type() != wanted:
            self._drain(int(length))
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the content type must be {wanted}.")
        try:
            body = self.rfile.read(int(length))
        except TimeoutError:
            raise _RefusedError(HTTPStatus.REQUEST_TIMEOUT, f"nothing came for {_SILENCE_S} seconds.") from None
        if len(body) < int(length):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"the request ended after {len(body)} of {length} bytes.")
        return body

    def _drain(self, length: int) -> None:
        """Read on a while without keeping anything: a client that is still sending does not hear an answer."""
        left = min(length, 4 * MAX_UPLOAD_BYTES)
        while left > 0 and (chunk := self.rfile.read(min(left, _CHUNK_BYTES))):
            left -= len(chunk)

    def _send(self, status: HTTPStatus, reply: Reply) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(reply.body))),
            ("Content-Security-Policy", CONTENT_POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
            *([("Connection", "close")] if self.close_connection else []),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)


def _message(text: str) -> Reply:
    return Reply(json.dumps({"error": text}).encode())
