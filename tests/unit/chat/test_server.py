"""The API over real HTTP on loopback: what it answers, and what it refuses from whom."""

import http.client
import io
import json
import socket
import threading
from contextlib import contextmanager

import pytest
from PIL import Image

from seed_dist.chat import api as rules
from seed_dist.chat import server as http_rules
from seed_dist.chat.api import Api
from seed_dist.chat.manner import Manner
from seed_dist.chat.server import ChatServer
from seed_dist.chat.session import MAX_UPLOAD_BYTES
from seed_dist.errors import ConfigError
from tests.pictures import bomb, picture
from tests.unit.chat.tiny_models import CODES, QUERIES

FILE, JSON = "application/octet-stream", "application/json"


@contextmanager
def serving(start):
    with ChatServer(Api(start, Manner()), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(start):
    with serving(start) as server:
        yield server


def request(server, method, path, body=None, secret=None, **headers):
    """(status, values or bytes). `path` follows the secret."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    sent = {"Content-Type": JSON if isinstance(body, dict) else FILE} if data is not None else {}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, f"/{server.secret if secret is None else secret}/{path}", data, sent)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, json.loads(content) if reply.getheader("Content-Type") == JSON else content


def begin(server):
    status, begun = request(server, "POST", "conversations", {})
    assert status == 200
    return f"conversations/{begun['id']}", begun


def test_a_conversation_from_picture_to_painting(server, engine):
    at, begun = begin(server)
    assert begun["models"]["queries"] == QUERIES
    status, shown = request(server, "POST", f"{at}/pictures", picture(1))
    assert (status, shown["number"]) == (200, 1)
    assert shown["codes"] == engine.tokenizer.encode(Image.open(io.BytesIO(picture(1))))[0].tolist()
    status, turn = request(server, "POST", f"{at}/turns", {"parts": [1, "a red star"], "reply": "words"})
    assert (status, turn["asked"], turn["pictures"]) == (200, [{"picture": 1}, {"text": "a red star"}], [])
    status, turn = request(server, "POST", f"{at}/turns", {"parts": ["a star"], "reply": "picture", "remember": 1})
    assert (status, turn["answered"]) == (200, [{"picture": 2}])
    codes = turn["pictures"][0]["codes"]
    assert request(server, "GET", f"{at}/pictures/2/painted") == (404, {"error": "picture 2 was not painted."})
    status, painted = request(server, "POST", f"{at}/pictures/2/paint", {})
    assert (status, painted["codes"], painted["painted_times"]) == (200, codes, 1)
    edited = [0, *codes[1:]] if codes[0] else [1, *codes[1:]]
    _, before = request(server, "GET", f"{at}/pictures/2/painted")
    status, painted = request(server, "POST", f"{at}/pictures/2/paint", {"codes": edited, "seed": 3})
    assert (status, painted["codes"], painted["first_codes"]) == (200, edited, codes)
    status, after = request(server, "GET", f"{at}/pictures/2/painted?2")
    assert status == 200
    assert Image.open(io.BytesIO(after)).tobytes() == engine.paint(edited, 3).tobytes()
    assert after != before
    _, state = request(server, "GET", at)
    assert [len(state[name]) for name in ("turns", "pictures")] == [2, 2]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("pictures", b"<html>", 400, "unreadable_image"),
        ("pictures", picture(1)[:70], 400, "unreadable_image"),
        ("pictures", bomb(), 400, "image_too_large: "),
        ("pictures", bytes(MAX_UPLOAD_BYTES + 1), 413, f"{MAX_UPLOAD_BYTES + 1} bytes; at most {MAX_UPLOAD_BYTES}"),
        ("pictures", {}, 415, f"must be {FILE}"),
        ("turns", b"{}", 415, f"must be {JSON}"),
        ("turns", {"parts": ["a" * 200_000]}, 413, "at most 200000"),
        ("turns", {"parts": []}, 400, "the turn is empty"),
        ("turns", {"parts": [True, 1.5]}, 400, "parts.0"),
        ("turns", {"parts": ["a"] * 17}, 400, "at most 16"),
        ("turns", {"parts": ["a"], "replay": 1}, 400, "replay"),
        ("turns", {"parts": ["a"], "reply": "sound"}, 400, "reply is 'sound'"),
        ("turns", {"parts": ["a"], "temperature": 9, "seed": -1}, 400, "2 configuration problem(s)"),
        ("turns", {"parts": [7]}, 400, "there is no picture 7"),
        ("turns", {"parts": ["a \ud800"]}, 400, "half of a surrogate pair"),
        ("pictures/1/paint", {"codes": [CODES] * QUERIES}, 400, f"code 1 is {CODES}; 0 to {CODES - 1} are allowed"),
        ("pictures/1/paint", {"codes": [1]}, 400, f"codes are 1; exactly {QUERIES} are needed"),
        ("pictures/1/paint", {"codes": ["1"] * QUERIES}, 400, "codes.0 is '1'"),
        ("pictures/1/paint", {"seed": 2**31}, 400, "seed is 2147483648"),
        ("pictures/9/paint", {}, 400, "there is no picture 9; 1 to 1 exist"),
        ("", {}, 404, "nothing at this address"),
        ("pictures/1/erase", {}, 404, "nothing to do"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(server, path, body, status, message):
    at, _ = begin(server)
    request(server, "POST", f"{at}/pictures", picture(1))
    before = request(server, "GET", at)
    found, values = request(server, "POST", f"{at}/{path}", body)
    assert (found, message in values["error"]) == (status, True), values
    assert request(server, "GET", at) == before


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"[1]", b"\xff", b"NaN"])
def test_bad_json(server, body):
    at, _ = begin(server)
    status, values = request(server, "POST", f"{at}/turns", body, Content_Type=JSON)
    assert status == 400
    assert "the request" in values["error"] or "the turn is empty" in values["error"]


def test_other_pages_and_other_names_reach_nothing(server):
    at, _ = begin(server)
    own = f"http://localhost:{server.server_address[1]}"
    assert request(server, "GET", at, Origin=own, Host=own[7:])[0] == 200
    for headers, status in (
        ({"Host": f"evil.example:{server.server_address[1]}"}, 403),
        ({"Host": "127.0.0.1"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://127.0.0.1:{server.server_address[1] - 1}"}, 403),
        ({"secret": "x" * 22}, 404),
        ({"secret": ""}, 404),
        ({"secret": "%C3%A4"}, 404),
    ):
        assert request(server, "GET", at, **headers)[0] == status, headers
        assert request(server, "POST", "conversations", {}, **headers)[0] == status, headers
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("path", ["../../etc/passwd", "%2e%2e/page.js", "page.js", "conversations/..%2f..", "//x"])
def test_no_path_leads_to_a_file(server, path):
    status, values = request(server, "GET", path)
    assert (status, "nothing at this address" in values["error"]) == (404, True)


def raw(server, head, body=b""):
    """What the server answers to bytes after which the client says nothing more."""
    with socket.create_connection(server.server_address, timeout=30) as connection:
        host = f"Host: 127.0.0.1:{server.server_address[1]}\r\n"
        connection.sendall(f"POST /{server.secret}/{head[0]} HTTP/1.1\r\n{host}{head[1]}\r\n\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read().decode()


def test_uploads_that_end_early_or_do_not_say_how_long_they_are(server):
    at, _ = begin(server)
    data = picture(1)
    length = f"Content-Type: {FILE}\r\nContent-Length: {len(data)}"
    answer = raw(server, (f"{at}/pictures", length), data[:100])
    assert answer.startswith("HTTP/1.1 400 ")
    assert f"ended after 100 of {len(data)} bytes" in answer
    for wrong in (
        "",
        "Content-Length: -1",
        "Content-Length: 1e3",
        "Content-Length: " + "9" * 5000,
        "Transfer-Encoding: chunked",
    ):
        assert raw(server, (f"{at}/pictures", f"Content-Type: {FILE}\r\n{wrong}".strip())).startswith("HTTP/1.1 411 ")
    assert request(server, "GET", at)[1]["pictures"] == []


def test_a_silent_client_keeps_nobody_waiting(start, monkeypatch):
    monkeypatch.setattr(http_rules._Handler, "timeout", 0.2)
    with serving(start) as server, socket.create_connection(server.server_address, timeout=30) as silent:
        at, _ = begin(server)
        head = f"POST /{server.secret}/{at}/pictures HTTP/1.1\r\nHost: {server.hosts[0]}\r\n"
        silent.sendall(f"{head}Content-Type: {FILE}\r\nContent-Length: 99\r\n\r\nabc".encode())
        assert request(server, "GET", at)[0] == 200
        assert silent.makefile("rb").read().startswith(b"HTTP/1.1 408 ")


def test_two_clients_at_once_wait_for_each_other_and_get_what_they_would_alone(server, engine, monkeypatch):
    answers, in_use = {}, threading.Lock()

    def alone(call):
        def checked(*arguments, **options):
            assert in_use.acquire(blocking=False), "the models are used twice at a time"
            try:
                return call(*arguments, **options)
            finally:
                in_use.release()

        return checked

    for owner, name in ((engine.language, "generate"), (engine.tokenizer, "encode"), (engine.tokenizer, "paint")):
        monkeypatch.setattr(owner, name, alone(getattr(owner, name)))

    def talk(seed):
        at, _ = begin(server)
        got = [request(server, "POST", f"{at}/pictures", picture(seed))[1]["codes"]]
        for text in ("a red star", "a blue moon on black"):
            turn = request(server, "POST", f"{at}/turns", {"parts": [1, text], "reply": "picture"})[1]
            number = turn["answered"][0]["picture"]
            request(server, "POST", f"{at}/pictures/{number}/paint", {"seed": seed})
            got.append(turn["pictures"][0]["codes"])
            got.append(request(server, "GET", f"{at}/pictures/{number}/painted")[1])
        answers.setdefault(seed, []).append(got)

    threads = [threading.Thread(target=talk, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        talk(seed)
        assert answers[seed][0] == answers[seed][1]
    assert answers[1] != answers[2]


def test_old_conversations_make_room(server, monkeypatch):
    monkeypatch.setattr(rules, "MAX_CONVERSATIONS", 2)
    first, second = begin(server)[0], begin(server)[0]
    assert request(server, "GET", first)[0] == 200  # used, so the second is now the oldest
    third = begin(server)[0]
    assert [request(server, "GET", at)[0] for at in (first, second, third)] == [200, 404, 200]
    assert "Begin a new one" in request(server, "POST", f"{second}/save", {})[1]["error"]


def test_a_disk_that_refuses_is_said(server, tmp_path):
    at, _ = begin(server)
    (tmp_path / "chat").write_text("in the way")
    status, values = request(server, "POST", f"{at}/save", {})
    assert (status, values["error"].startswith(f"{tmp_path / 'chat'} cannot be written: File exists")) == (400, True)


def test_replies_are_not_for_other_pages_and_the_page_is_one_file(server):
    connection = http.client.HTTPConnection(*server.server_address, timeout=30)
    connection.request("GET", server.url.partition(server.hosts[0])[2])
    reply = connection.getresponse()
    page = reply.read().decode()
    assert reply.status == 200
    policy = reply.getheader("Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert [reply.getheader(name) for name in ("X-Content-Type-Options", "Referrer-Policy", "Cache-Control")] == [
        "nosniff", "no-referrer", "no-store",
    ]  # fmt: skip
    assert "{{" not in page.partition("<script>")[0]
    assert not any(word in page for word in ("http://", "https://", "innerHTML", "eval("))
    connection.close()


def test_a_port_in_use(server, start):
    with pytest.raises(ConfigError, match=f"--port {server.server_address[1]} cannot be used"):
        ChatServer(Api(start, Manner()), server.server_address[1])
