"""Drives headless Chromium by the WebDriver protocol, with nothing but the standard library."""

import json
import shutil
import subprocess
import urllib.request
from contextlib import contextmanager
from pathlib import Path


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--window-size=1200,900"]
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
        found = post(f"{self.session}/element", {"using": "css selector", "value": selector})
        post(f"{self.session}/element/{next(iter(found.values()))}/click", {})


def post(url: str, body: dict | None, method: str = "POST"):
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    # No proxy of the environment is for the loopback interface.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)["value"]


@contextmanager
def open_page(file: Path, folder: Path):
    """The page of a file, in a browser of its own that saves into `folder`."""
    options = {
        "binary": CHROMIUM,
        "args": [*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"],
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
            post(f"{url}/url", {"url": file.absolute().as_uri()})
            yield Page(url)
        finally:
            post(url, None, "DELETE")
    finally:
        driver.terminate()
        driver.wait(timeout=20)
