"""A headless Chromium that a test drives over its debugging pipe: null-terminated JSON, no package needed.

https://chromedevtools.github.io/devtools-protocol has the commands.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

NEEDED = "chromium"
# Elements that reach beyond the right edge and that no frame of their own cuts or lets scroll.
_BEYOND = """(() => {
    const framed = (element) => {
        for (let one = element.parentElement; one && one !== document.body; one = one.parentElement) {
            if (/auto|scroll|hidden/.test(getComputedStyle(one).overflowX)) return true;
        }
        return false;
    };
    const width = document.documentElement.clientWidth;
    const beyond = (element) => {
        const place = element.getBoundingClientRect();
        return place.width && place.right > width + 0.5 && !framed(element);
    };
    return [...document.body.querySelectorAll("*")].filter(beyond).map(
        (element) => `${element.tagName} ${element.className}: ${element.textContent.slice(0, 60)}`);
})()"""
_UNREACHED = """[...document.querySelectorAll(".scroll, pre, summary, a[href], button:enabled, textarea")]
    .filter((element) => element.checkVisibility() && element.tabIndex < 0)
    .map((element) => element.outerHTML.slice(0, 90))"""


class Chromium:
    """One window of `width` x `height` CSS pixels. Use as a context manager."""

    def __init__(self, profile: Path, width: int = 1000, height: int = 900) -> None:
        command_end, self._commands = os.pipe()
        self._events, event_end = os.pipe()
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars",
            f"--user-data-dir={profile}", f"--window-size={width},{height}",
        ]  # fmt: skip
        redirected = f'exec "$@" 3<&{command_end} 4>&{event_end}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirected, "bash", NEEDED, *options],
            pass_fds=(command_end, event_end), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(command_end)
        os.close(event_end)
        self._number, self._buffer, self._session = 0, b"", ""
        self.errors: list[str] = []  # what the page threw or logged as an error
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._commands)
        os.close(self._events)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            self._note(answer)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, limit_s: float = 60) -> None:
        """Until a JavaScript expression is true."""
        deadline = time.monotonic() + limit_s
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"never true: {condition}; errors: {self.errors}"
            time.sleep(0.05)

    def as_phone(self, width: int = 375) -> None:
        """A narrow screen from now on."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=740, deviceScaleFactor=1, mobile=True)

    def faults_of_layout(self) -> list[str]:
        """With everything unfolded: what lies beyond the right edge, and what no keyboard reaches."""
        self.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        return [*self.run(_BEYOND), *self.run(_UNREACHED)]

    def drop(self, *files: Path) -> None:
        """Drop files on the middle of the window."""
        x, y = self.run("[innerWidth / 2, innerHeight / 2]")
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def _receive(self, limit_s: float = 60) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._events], [], [], limit_s)
            assert ready, "chromium does not answer"
            chunk = os.read(self._events, 1 << 20)
            assert chunk, "chromium has ended"
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        if message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
