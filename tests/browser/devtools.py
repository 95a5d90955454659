"""A headless Chromium and its pages, driven over the Chrome DevTools Protocol.

The protocol goes through two pipes (`--remote-debugging-pipe`), so it needs no port, no WebSocket and no package.
Deliberately absent: everything that our one page does not need.
"""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-default-apps", "--disable-dev-shm-usage", "--mute-audio", "--metrics-recording-only",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--remote-debugging-pipe",
]


def find():
    """The path of a Chromium, or None."""
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    chosen = os.environ.get("CHROMIUM")
    return chosen or next((path for name in names if (path := shutil.which(name))), None)


class Browser:
    """A browser until the end of the `with` block, with a fresh profile. `hears` is a WAV file for its microphone."""

    def __init__(self, program, hears=None):
        self.folder = Path(tempfile.mkdtemp(prefix="whisperwire-browser-"))
        flags = [*FLAGS, f"--user-data-dir={self.folder / 'profile'}"]
        if hears:
            flags.append(f"--use-file-for-fake-audio-capture={hears}%noloop")
        to_read, self.to_browser = os.pipe()
        self.from_browser, to_write = os.pipe()

        def three_and_four():
            # Where the browser looks for its pipes. First out of the way, because either may be 3 or 4 by chance.
            read, write = os.dup(to_read), os.dup(to_write)
            os.dup2(read, 3)
            os.dup2(write, 4)

        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [program, *flags, "about:blank"], preexec_fn=three_and_four, close_fds=False, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )
        os.close(to_read)
        os.close(to_write)
        self.buffer = b""
        self.last_id = 0
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        os.close(self.to_browser)
        os.close(self.from_browser)
        shutil.rmtree(self.folder, ignore_errors=True)

    def page(self):
        """A new, empty page."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        return Page(self, session)

    def call(self, method, params=None, session=None, seconds=30):
        """Sends a command and waits for its result. What happens meanwhile is kept in `events`."""
        self.last_id += 1
        command = {"id": self.last_id, "method": method, "params": params or {}}
        if session:
            command["sessionId"] = session
        os.write(self.to_browser, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + seconds
        while True:
            message = self.receive(deadline - time.monotonic())
            if message is None:
                raise Failure(f"the browser does not answer {method}")
            if message.get("id") == self.last_id:
                if "error" in message:
                    raise Failure(f"{method}: {message['error']['message']}")
                return message["result"]

    def receive(self, seconds):
        """The next message, or None; events are kept."""
        deadline = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.from_browser], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                return None
            read = os.read(self.from_browser, 1 << 20)
            if not read:
                log = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise Failure(f"the browser has gone away:\n{log}")
            self.buffer += read
        raw, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(raw)
        if "method" in message:
            self.events.append(message)
        return message


class Page:
    """One tab."""

    def __init__(self, browser, session):
        self.browser = browser
        self.session = session
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method, params=None):
        return self.browser.call(method, params, self.session)

    def events(self, method):
        """What has happened so far under this name."""
        return [
            event["params"] for event in self.browser.events
            if event["method"] == method and event.get("sessionId") == self.session
        ]

    def open(self, url):
        self.call("Page.navigate", {"url": url})
        self.wait("document.readyState === 'complete'", f"{url} is loaded")

    def eval(self, expression):
        """The value of an expression, of the promise's where it is one."""
        answer = self.call(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True},
        )
        if "exceptionDetails" in answer:
            raise Failure(f"{expression}: {answer['exceptionDetails'].get('exception', {}).get('description')}")
        return answer["result"].get("value")

    def wait(self, expression, what, seconds=15):
        """Waits until an expression is true; `what` says so in words."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.eval(f"Boolean({expression})"):
                return
            time.sleep(0.05)
        state = self.eval(
            "document.body.dataset.state + ': ' + "
            "(document.querySelector('main') ?? document.body).innerText.slice(0, 600).replace(/\\n+/g, ' / ')"
        )
        raise Failure(f"waited {seconds} s until {what}; the page is at {state}")

    def click(self, selector):
        """Presses the left button in the middle of an element, as a hand would."""
        box = self.eval(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'nearest'});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", {
                "type": kind, "x": box[0], "y": box[1], "button": "left", "clickCount": 1,
            })

    def press(self, key, code, number, modifiers=0):
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", {
                "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers,
            })

    def viewport(self, width, height, dark=False, scale=1, touch=False):
        self.call("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": scale, "mobile": touch,
        })
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def screenshot(self, path):
        picture = self.call("Page.captureScreenshot", {"format": "png"})["data"]
        Path(path).write_bytes(base64.b64decode(picture))


class Failure(Exception):
    """The page or the browser is not as it should be."""
