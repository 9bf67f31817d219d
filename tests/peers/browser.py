"""Chromium by Playwright, driven by lines of JSON: {"op": ..., ...} in, {"ok": value} or {"error": text} out, one a line.

Each page lives in a browser context of its own, as another workstation's would.
"""
import json
import sys
import time

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

PATIENCE_MS = 120_000
# Without these Chromium looks for hosts on the internet at every start.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]


class Browser:
    def __init__(self, playwright, executable):
        self.chromium = playwright.chromium.launch(executable_path=executable, args=QUIET)
        self.pages = {}
        self.said = {}

    def open(self, page, url, width=1024, height=768, javascript=True):
        context = self.chromium.new_context(viewport={"width": width, "height": height}, ignore_https_errors=True,
                                            java_script_enabled=javascript)
        made = context.new_page()
        made.set_default_timeout(PATIENCE_MS)
        said = self.said[page] = []
        made.on("pageerror", lambda error: said.append(f"error: {error}"))
        made.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        # Whatever leaves for another host is a fault.
        origin = "/".join(url.split("/")[:3])
        made.on("request", lambda request: None if request.url.startswith((origin, "blob:", "data:"))
                else said.append(f"request: {request.url}"))
        self.pages[page] = made
        made.goto(url)

    def goto(self, page, url):
        self.pages[page].goto(url)

    def wait(self, page, selector, text=None, state="visible"):
        locator = self.pages[page].locator(selector, has_text=text) if text else self.pages[page].locator(selector)
        locator.first.wait_for(state=state)

    def text(self, page, selector):
        return self.pages[page].locator(selector).all_inner_texts()

    def count(self, page, selector):
        return self.pages[page].locator(selector).count()

    def click(self, page, selector):
        self.pages[page].locator(selector).first.click()

    def fill(self, page, selector, value):
        self.pages[page].locator(selector).fill(value)

    def press(self, page, key):
        self.pages[page].keyboard.press(key)

    def eval(self, page, script):
        return self.pages[page].evaluate(script)

    def until(self, page, script):
        # Not wait_for_function: it evaluates in the page, which its content security policy forbids.
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not self.pages[page].evaluate(script):
            if time.monotonic() > deadline:
                raise TimeoutError(script)
            self.pages[page].wait_for_timeout(50)

    def picture(self, page, path):
        self.pages[page].screenshot(path=path)

    def url(self, page):
        return self.pages[page].url

    def heard(self, page):
        """What the page did that it must not: errors, dialogs, requests to others."""
        return self.said[page]

    def cookies(self, page):
        return self.pages[page].context.cookies()

    def axe(self, page):
        """Accessibility faults that axe-core calls serious or critical, WCAG 2.1 A and AA."""
        results = Axe().run(self.pages[page], options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        return [f"{v['id']}: {v['help']}: {[n['html'][:160] for n in v['nodes'][:3]]}"
                for v in results.response["violations"] if v["impact"] in ("serious", "critical")]

    def close(self, page):
        self.pages.pop(page).context.close()


def main():
    with sync_playwright() as playwright:
        browser = Browser(playwright, sys.argv[1])
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                answer = {"ok": getattr(browser, asked.pop("op"))(**asked)}
            except Exception as error:  # noqa: BLE001: the test says which step failed
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)


main()
