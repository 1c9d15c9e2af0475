"""A headless Chromium, Debian's, that records its console and its requests."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
_PATIENCE_S = 60.0


class Browser:
    """One page in one tab."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.showing: tuple[Path, int, bool] | None = None

    def open(self, page: Path, width: int = 1280, dark: bool = False) -> None:
        """Load a file, and wait until all charts are drawn."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self.driver.get(page.as_uri())
        self.showing = (page, width, dark)
        self.drawn()

    def drawn(self) -> None:
        """Wait until all charts are drawn."""
        self.js("return new Promise(done => setTimeout(done))")  # the page puts off what a reset changes
        end = time.monotonic() + _PATIENCE_S
        while self.js(
            "return document.documentElement.dataset.drawn !== 'all' || document.querySelector('.plot:empty')"
        ):
            assert time.monotonic() < end, "the charts are not drawn"
            time.sleep(0.05)

    def js(self, script: str, *arguments: Any) -> Any:
        """Run a script; returns its result."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        """All elements of a selector."""
        found: list[WebElement] = self.driver.find_elements("css selector", selector)
        return found

    def console(self) -> list[str]:
        """The warnings and errors on the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The URLs of the requests since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def picture(self, element: WebElement) -> bytes:
        """A PNG of one element."""
        box = self.js(
            "const box = arguments[0].getBoundingClientRect();"
            "return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height, scale: 1}",
            element,
        )
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": box})
        return base64.b64decode(shot["data"])


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, and close it at the end."""
    options = webdriver.ChromeOptions()
    assert CHROMIUM is not None and DRIVER is not None
    options.binary_location = CHROMIUM
    flags = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
    )
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
