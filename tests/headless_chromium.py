"""Chromium without a window, told what to do through two pipes (its DevTools protocol)."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
_FLAGS += ("--no-first-run", "--disable-dev-shm-usage", "--disable-extensions", "--hide-scrollbars")
_FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync")


def found() -> str | None:
    """The browser's path, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def browser(program: str) -> Iterator["Browser"]:
    """A browser with an empty profile, which is ended with all that it started."""
    to_browser, write = os.pipe()
    read, from_browser = os.pipe()
    # It reads 3 and writes 4: those here have to be others before they are made those.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_browser, from_browser)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        null = os.open(os.devnull, os.O_RDWR)
        process = os.posix_spawn(
            program,
            [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            os.environ,
            file_actions=[
                *((os.POSIX_SPAWN_DUP2, null, standard) for standard in range(3)),
                *(
                    (os.POSIX_SPAWN_DUP2, end, number)
                    for end, number in zip(ends, (3, 4), strict=True)
                ),
            ],
            setpgroup=0,
        )
        for end in (to_browser, from_browser, null, *ends):
            os.close(end)
        try:
            yield Browser(read, write)
        finally:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(read)
            os.close(write)


class Browser:
    """The two pipes, and what was told on them. It fails where nothing is told for `seconds`."""

    def __init__(self, read: int, write: int, *, seconds: float = 60) -> None:
        self._read, self._write, self._seconds = read, write, seconds
        self._rest, self._asked = b"", 0
        self._events: list[dict[str, Any]] = []

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """What a command answers, see https://chromedevtools.github.io/devtools-protocol."""
        self._asked += 1
        question = {"id": self._asked, "method": method, "params": params}
        if session is not None:
            question["sessionId"] = session
        os.write(self._write, json.dumps(question).encode() + b"\0")
        while (answer := self._hear()).get("id") != self._asked:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def events(self, session: str) -> list[dict[str, Any]]:
        """What happened in a tab so far."""
        return [event for event in self._events if event.get("sessionId") == session]

    def _hear(self) -> dict[str, Any]:
        """The next answer or event."""
        end = time.monotonic() + self._seconds
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"the browser told nothing for {self._seconds} s")
            if not (more := os.read(self._read, 1 << 20)):
                raise RuntimeError("the browser ended")
            self._rest += more
        message, self._rest = self._rest.split(b"\0", 1)
        told = json.loads(message)
        if "method" in told:
            self._events.append(told)
        return told

    @contextlib.contextmanager
    def open(
        self,
        file: Path,
        width: int = 1280,
        *,
        height: int = 900,
        dark: bool = False,
        scripts: bool = True,
        media: str = "screen",
    ) -> Iterator["Tab"]:
        """A file in a tab of its own, at a width of so many pixels; below 600 it is a phone."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable", session)
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1}
        self.ask("Emulation.setDeviceMetricsOverride", session, **size, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", session, media=media, features=[scheme])
        self.ask("Emulation.setScriptExecutionDisabled", session, value=not scripts)
        self.ask("Page.navigate", session, url=file.resolve().as_uri())
        while "Page.loadEventFired" not in (event["method"] for event in self.events(session)):
            self._hear()
        yield Tab(self, session)
        self.ask("Target.closeTarget", targetId=target)


class Tab:
    """A page that is loaded."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.ask(method, self._session, **params)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is, through JSON."""
        given = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in given:
            raise RuntimeError(given["exceptionDetails"]["exception"]["description"])
        return given["result"].get("value")

    def press(self, key: str) -> None:
        """A key with a name, such as Tab or Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )

    def problems(self) -> list[str]:
        """What stands in the console, errors that nobody caught, and requests to elsewhere."""
        time.sleep(0.05)  # What is told late; a timer of the page would need scripts.
        self.value("0")
        found = []
        for event in self._browser.events(self._session):
            method, params = event["method"], event["params"]
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(json.dumps(params))
            if method == "Network.requestWillBeSent":
                address = params["request"]["url"]
                if not address.startswith(("file:", "data:", "blob:")):
                    found.append(f"a request of {address[:200]}")
        return found

    def screenshot(self, path: Path) -> None:
        """A PNG of what is in view."""
        taken = self.ask("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(taken["data"]))

    def printed(self) -> bytes:
        """A PDF, as on paper."""
        taken = self.ask("Page.printToPDF", printBackground=False)
        return base64.b64decode(taken["data"])
