"""A browser without a window, by the WebDriver protocol of chromedriver: JSON over HTTP, no package needed."""

import base64
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

CHECKS = []


def check(holds, what):
    """Notes what does not hold, and goes on."""
    if not holds:
        CHECKS.append(str(what))


class Browser:
    def __init__(self, width=1400, height=900, dark=False, downloads=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.driver = subprocess.Popen(
            ["chromedriver", f"--port={port}", "--log-level=OFF"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.url = f"http://127.0.0.1:{port}"
        args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        args += [f"--window-size={width},{height}"] + (["--force-dark-mode"] if dark else [])
        options = {"args": args, "prefs": {"download.default_directory": downloads or "/nowhere"}}
        if width < 500:
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0}}
        for attempt in range(100):
            try:
                self.call("GET", "/status")
                break
            except OSError:
                time.sleep(0.1)
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}
        self.session = f"/session/{self.call('POST', '/session', {'capabilities': wanted})['sessionId']}"
        if dark:
            media = [{"name": "prefers-color-scheme", "value": "dark"}]
            self.do("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {"features": media}})

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.read().decode()[:600]}") from None

    def do(self, method, path, body=None):
        return self.call(method, self.session + path, body)

    def go(self, url):
        self.do("POST", "/url", {"url": url})

    def js(self, script, *args):
        return self.do("POST", "/execute/sync", {"script": script, "args": list(args)})

    def until(self, script, what, seconds=30):
        """Waits until a script's value is true."""
        end = time.time() + seconds
        while time.time() < end:
            value = self.js(f"return ({script})")
            if value:
                return value
            time.sleep(0.05)
        raise RuntimeError(f"never: {what}\n{self.js('return document.body.innerText')[:3000]}")

    def element(self, css):
        return list(self.do("POST", "/element", {"using": "css selector", "value": css}).values())[0]

    def click(self, css):
        self.do("POST", f"/element/{self.element(css)}/click", {})

    def type(self, css, text):
        self.do("POST", f"/element/{self.element(css)}/value", {"text": text})

    def errors(self):
        """What the console of the page complains about."""
        return [e["message"] for e in self.do("POST", "/se/log", {"type": "browser"}) if e["level"] in ("SEVERE", "WARNING")]

    def picture(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.do("GET", "/screenshot")))

    def quit(self):
        try:
            self.do("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait()


def done():
    print("\n".join(CHECKS) or "fine")
    sys.exit(bool(CHECKS))
