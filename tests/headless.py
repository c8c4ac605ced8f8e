"""Start a headless Chromium that cannot be mistaken for a user's: fresh profile, no background traffic."""

from __future__ import annotations

import base64
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--force-device-scale-factor=1",
)  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing() -> str | None:
    """Say what is missing to run the browser tests, or None."""
    if not any(shutil.which(name) for name in BROWSERS):
        return f"no Chromium found among {', '.join(BROWSERS)}; apt-get install chromium chromium-driver"
    if not shutil.which("chromedriver"):
        return "no chromedriver found; apt-get install chromium-driver"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed; pip install 'azeotrope[dev]'"
    return None


def marks() -> list[pytest.MarkDecorator]:
    """Return the marks of a module of browser tests; without a browser they are skipped loudly."""
    reason = missing()
    if reason is not None:
        warnings.warn(f"BROWSER TESTS NOT RUN: {reason}", stacklevel=2)  # seen even without -rs
    return [
        pytest.mark.slow,
        pytest.mark.skipif(reason is not None, reason=f"BROWSER TESTS NOT RUN: {reason}"),
    ]


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Yield a driver with console and network logs on."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(path for name in BROWSERS if (path := shutil.which(name)))
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.get("about:blank")  # the new tab page goes on loading otherwise
        yield driver
    finally:
        driver.quit()


def show(driver: Any, page: Path | str, width: int, theme: str, height: int = 900) -> None:
    """Open a file or an address at a width and preferred color scheme and wait until its scripts have run."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})  # else focus tells nobody
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(page if isinstance(page, str) else page.as_uri())
    driver.execute_script("localStorage.clear(); delete document.documentElement.dataset.theme")


def requests(driver: Any) -> list[str]:
    """Return the addresses asked for since the page was opened, other than local files and inline data.

    What the browser's own pages ask for is none of the page's: the tab's first page may still be loading.
    """
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            sent = message["params"]
            url = sent["request"]["url"]
            own = sent["documentURL"].startswith(("chrome:", "chrome-untrusted:"))
            if not own and not url.startswith(("file:", "data:", "blob:", "about:", "devtools:")):
                found.append(url)
    return found


def screenshot(driver: Any, target: Path) -> None:
    """Save a picture of the whole page."""
    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    target.write_bytes(base64.b64decode(shot["data"]))


def js(driver: Any, script: str, *args: Any) -> Any:
    """Run a script in the page."""
    return driver.execute_script(script, *args)


def faint(driver: Any) -> list[str]:
    """Return what is written with a contrast below 4.5."""
    return list(js(driver, """
      const parse = (c) => {
        const m = c.match(/[\\d.]+/g).map(Number);
        const rgb = c.startsWith('color(') ? m.slice(0, 3) : m.slice(0, 3).map((v) => v / 255);
        return [rgb, m.length > 3 ? m[3] : 1];
      };
      const lum = (rgb) => rgb.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((a, v, i) => a + v * [0.2126, 0.7152, 0.0722][i], 0);
      const backdrop = (node) => {
        const layers = [];
        for (let n = node; n; n = n.parentElement) layers.push(parse(getComputedStyle(n).backgroundColor));
        const over = (base, [rgb, a]) => base.map((v, i) => v * (1 - a) + rgb[i] * a);
        return layers.reverse().reduce(over, [1, 1, 1]);
      };
      const bad = new Set();
      const tags = 'p, a, button, td, th, dd, dt, h1, h2, h3, span, small, b, del, label, li, select, text';
      for (const node of document.querySelectorAll(tags)) {
        if (!node.textContent.trim() || !node.getClientRects().length) continue;
        const style = getComputedStyle(node);
        const [ink] = parse(node.tagName === 'text' ? style.fill : style.color);
        const [a, b] = [lum(ink), lum(backdrop(node))].sort((x, y) => x - y);
        const ratio = (b + 0.05) / (a + 0.05);
        const name = node.className.baseVal ?? node.className;
        if (ratio < 4.5) bad.add(`${node.tagName}.${name} ${ratio.toFixed(2)}`);
      }
      return [...bad];"""))  # fmt: skip


def texts(driver: Any, selector: str) -> list[str]:
    """Return the text of every matching element."""
    script = "return [...document.querySelectorAll(arguments[0])].map((n) => n.textContent)"
    return list(js(driver, script, selector))


def press(driver: Any, key: str) -> None:
    """Press a key."""
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(key).perform()


def choose(driver: Any, label: str, value: str, within: str = "body") -> None:
    """Pick a value in the select with this label."""
    done = js(driver, """
      const [label, value, within] = arguments;
      const fields = [...document.querySelectorAll(`${within} .field`)];
      const field = fields.find((f) => f.firstChild.textContent === label);
      const select = field.querySelector('select');
      select.value = value;
      select.dispatchEvent(new Event('change', { bubbles: true }));
      return select.value === value;""", label, value, within)  # fmt: skip
    assert done
