"""Drives headless Chromium by the WebDriver protocol, with nothing but the standard library."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update"]
# As WebDriver names them.
KEYS = {"Enter": "\ue007", "Space": " ", "Left": "\ue012", "Up": "\ue013", "Right": "\ue014", "Down": "\ue015"}
KEYS |= {"Home": "\ue011", "End": "\ue010", "Delete": "\ue017"}


class Page:
    """A page that is open in the browser."""

    def __init__(self, session: str):
        self.session = session

    def run(self, script: str, *arguments):
        """What a script returns."""
        return post(f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, *keys: str) -> None:
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        post(f"{self.session}/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def click(self, selector: str) -> None:
        post(f"{self.find(selector)}/click", {})

    def upload(self, selector: str, file: Path) -> None:
        """Gives a file to a file field."""
        post(f"{self.find(selector)}/value", {"text": str(Path(file).absolute())})

    def find(self, selector: str) -> str:
        found = post(f"{self.session}/element", {"using": "css selector", "value": selector})
        return f"{self.session}/element/{next(iter(found.values()))}"

    def wait(self, script: str, seconds: float = 60):
        """What a script returns as soon as that is something; a page that answers takes its time."""
        end = time.monotonic() + seconds
        while not (result := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(
                    f"nothing came of {script!r}; the page says: {self.run('return document.body.innerText')}"
                )
            time.sleep(0.2)
        return result


def post(url: str, body: dict | None, method: str = "POST"):
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    # No proxy of the environment is for the loopback interface.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)["value"]


@contextmanager
def open_page(page: Path | str, folder: Path, window: tuple[int, int] = (1200, 900)):
    """The page of a file or an address, in a browser of its own that saves into `folder`."""
    address = page if isinstance(page, str) else page.absolute().as_uri()
    options = {
        "binary": CHROMIUM,
        "args": [*ARGUMENTS, f"--user-data-dir={folder / 'profile'}", f"--window-size={window[0]},{window[1]}"],
        "prefs": {"download.default_directory": str(folder), "download.prompt_for_download": False},
    }
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        for line in driver.stdout:
            if "successfully on port" in line:
                port = line.rsplit("on port", 1)[1].strip(" .\n")
                break
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        session = post(f"http://127.0.0.1:{port}/session", {"capabilities": capabilities})
        url = f"http://127.0.0.1:{port}/session/{session['sessionId']}"
        try:
            post(f"{url}/url", {"url": address})
            yield Page(url)
        finally:
            post(url, None, "DELETE")
    finally:
        driver.terminate()
        driver.wait(timeout=20)


@contextmanager
def gradio_app(*arguments, folder: Path, **environment):
    """The address of the page that `python …` serves with gradio."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=os.environ | {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"} | environment,
            stdout=file,
            stderr=file,
        )
    try:
        for _ in range(600):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)
