"""A headless Chromium, driven by the DevTools protocol over one WebSocket, one command at a time."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

from tests.support.gateway import wait_until

START_DEADLINE = 60.0  # seconds; the first start of a browser on a cold disk is slow
DEADLINE = 60.0  # seconds for a command, or for a condition on a page
LONGEST = 64 * 1024 * 1024  # maximum size of a message in bytes, such as a screenshot

FLAGS = (
    "--headless",
    "--no-sandbox",  # Chromium has no sandbox for root
    "--disable-dev-shm-usage",  # containers have a small /dev/shm
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class PageFailed(AssertionError):
    """A page did not meet a condition, or the browser rejected a command."""


class Browser:
    """The process, within a `with`."""

    def __init__(self, program: str, folder: Path) -> None:
        """Start the browser. `program`: path of Chromium. `folder`: an empty one for its state."""
        self._command = [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self._told = folder / "DevToolsActivePort"
        self._log = folder / "chromium.log"
        self._numbers = itertools.count(1)
        self._closing = contextlib.ExitStack()
        self._socket: ClientConnection
        self.pages: dict[str, Page] = {}
        """Pages by session."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            log = opened.enter_context(self._log.open("wb"))
            process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            opened.callback(_end, process)
            wait_until(self._has_told, f"Chromium to listen; what it said is in {self._log}", START_DEADLINE)
            port, path = self._told.read_text().split()
            wire = connect(f"ws://127.0.0.1:{port}{path}", max_size=LONGEST, proxy=None, compression=None)
            self._socket = opened.enter_context(wire)
            self._closing = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _has_told(self) -> bool:
        return self._told.exists() and len(self._told.read_text().split()) == 2

    def command(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Return the result of a command. Events received meanwhile are passed to their pages."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        self._socket.send(json.dumps(message))
        end = time.monotonic() + DEADLINE
        while True:
            try:
                told = json.loads(self._socket.recv(max(end - time.monotonic(), 0.0)))
            except TimeoutError:
                raise PageFailed(f"{method}: the browser has not answered for {DEADLINE:g} s") from None
            if told.get("id") == number:
                if "error" in told:
                    raise PageFailed(f"{method}: {told['error']['message']}")
                result: dict[str, Any] = told["result"]
                return result
            page = self.pages.get(told.get("sessionId", ""))
            if page is not None:
                page.take(told["method"], told["params"])

    def page(self) -> Page:
        """Open a page with its own storage."""
        held = self.command("Target.createBrowserContext")["browserContextId"]
        target = self.command("Target.createTarget", url="about:blank", browserContextId=held)["targetId"]
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, held, session)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Page:
    """One tab, closed at the end of a `with`."""

    def __init__(self, browser: Browser, context: str, session: str) -> None:
        self._browser = browser
        self._context = context
        self._session = session
        browser.pages[session] = self
        self.complaints: list[str] = []
        """Errors and warnings of the console: exceptions, policy violations, failed requests."""
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        del self._browser.pages[self._session]
        self._browser.command("Target.disposeBrowserContext", browserContextId=self._context)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.command(method, self._session, **parameters)

    def take(self, event: str, told: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}".strip())

    def go(self, url: str) -> None:
        failed = self.command("Page.navigate", url=url).get("errorText")
        if failed:
            raise PageFailed(f"{url}: {failed}")
        self.until("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, which must be JSON."""
        told = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise PageFailed(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until the expression is true. It may raise errors meanwhile, because elements may not exist yet."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                held, why = self.run(f"Boolean({expression})"), ""
            except PageFailed as error:
                held, why = False, str(error)
            if held:
                return
            if time.monotonic() > end:
                raise PageFailed(f"waited {DEADLINE} s for {expression} {why}; the page has {self.text('body')!r}")
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """Return the visible text of an element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def type(self, selector: str, text: str) -> None:
        """Replace the value of an input."""
        self.run(f"(field => {{ field.focus(); field.select(); }})(document.querySelector({json.dumps(selector)}))")
        if text:
            self.command("Input.insertText", text=text)
        else:
            self.press("Delete")

    def press(self, key: str, modifiers: int = 0) -> None:
        code = {"Enter": 13, "Tab": 9, "Delete": 46, "Escape": 27}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        told = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.command("Input.dispatchKeyEvent", type="keyDown", **told, **text)
        self.command("Input.dispatchKeyEvent", type="keyUp", **told)

    def window(self, width: int, height: int = 900, is_phone: bool = False) -> None:
        scale = 2 if is_phone else 1
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone
        )

    def prefer(self, **features: str) -> None:
        """Set media preferences, such as `prefers_color_scheme="dark"`."""
        told = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.command("Emulation.setEmulatedMedia", features=told)

    def picture(self, file: Path) -> None:
        """Return a screenshot of the whole page as PNG."""
        taken = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))
