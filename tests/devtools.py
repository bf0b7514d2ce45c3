"""A headless Chromium of the tests' own, driven through its DevTools protocol: what a page does when it is opened.

It reaches no network: a page is a file, names resolve to nothing, and all that it asks for is kept to be looked at.
"""

import asyncio
import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no chromium or chrome on this machine")

_WAIT = 30
"""Seconds until a browser that does not answer fails the test."""
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--mute-audio"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-port=0"),
)


class Browser:
    """A running browser; a context manager that ends it, and no other.

    Args:
        folder: an empty one, for the profile.
    """

    def __init__(self, folder: Path) -> None:
        assert PROGRAM is not None
        self._loop = asyncio.new_event_loop()
        self._process = subprocess.Popen(
            [PROGRAM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._run(self._connect(folder / "DevToolsActivePort"))
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._call("Browser.close"))
        self._run(self._session.close())
        self._end()

    def open(self, path: Path, *, dark: bool = False, width: int = 1280) -> "Page":
        """Open a file in a tab of its own and wait until it is loaded.

        Args:
            path: of an HTML file.
            dark: as by a reader who prefers dark pages.
            width: of the window in pixels.
        """
        return Page(self, path.resolve().as_uri(), dark, width)

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(work, _WAIT))

    async def _connect(self, file: Path) -> None:
        while not (file.exists() and file.read_text().count("\n")):  # written when the browser listens
            assert self._process.poll() is None, f"{PROGRAM} ended with {self._process.returncode}"
            await asyncio.sleep(0.05)
        port, address = file.read_text().split()[:2]
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(f"ws://127.0.0.1:{port}{address}", max_msg_size=0)
        self._calls = 0
        self.events: list[dict[str, Any]] = []

    async def _call(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": values}
        await self._socket.send_str(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(await self._socket.receive_str())
            if answer.get("id") == message["id"]:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            await self._heard(answer)

    async def _heard(self, event: dict[str, Any]) -> None:
        """Keep an event; a dialogue would stop its page, so it is closed."""
        self.events.append(event)
        if event.get("method") == "Page.javascriptDialogOpening":
            close = {"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": False}}
            await self._socket.send_str(json.dumps(close | {"sessionId": event["sessionId"]}))

    async def _until(self, method: str, session: str) -> None:
        while not any(event.get("method") == method and event.get("sessionId") == session for event in self.events):
            await self._heard(json.loads(await self._socket.receive_str()))

    def call(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        """The result of a method of the protocol; events that come before it are kept in ``events``."""
        return self._run(self._call(method, session, **values))

    def until(self, method: str, session: str) -> None:
        """Wait for an event of a page, where it has not come yet."""
        self._run(self._until(method, session))

    def _end(self) -> None:
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._loop.close()


class Page:
    """A loaded file, and what it did meanwhile."""

    def __init__(self, browser: Browser, address: str, dark: bool, width: int) -> None:
        self._browser, self.address = browser, address
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        went = self.call("Page.navigate", url=address)
        assert "errorText" not in went, went
        browser.until("Page.loadEventFired", self._session)
        self.settle()

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **values)

    def settle(self) -> None:
        """Wait for two frames: what the page had to do is done, and seen.  A tab behind another draws none."""
        self.call("Page.bringToFront")
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def value(self, script: str) -> Any:
        """What a line of script in the page gives, as JSON can tell it; of a promise, what it becomes."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def events(self, *methods: str) -> list[dict[str, Any]]:
        """What the page did, of these kinds, as the protocol tells it."""
        mine = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [event["params"] for event in mine if event["method"] in methods]

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """Lines of the console, uncaught errors, refusals by the policy, and dialogues: a good page has none."""
        told = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening")
        return self.events(*told)

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself and what lies within it left out."""
        asked = [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]
        return [url for url in asked if url != self.address and not url.startswith("data:")]

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what is seen, or the whole page, as a PNG."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def close(self) -> None:
        self.call("Page.close")
