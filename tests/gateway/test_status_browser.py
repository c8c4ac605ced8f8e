"""The status page in a real browser, of a gateway with real traffic, whose names try to be markup."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from gateway_drive import Mock, Running, message, serving
from signals_drive import SECRET, calibration, words
from test_gateway_desk import key
from test_gateway_serving import ASK, THOUGHTS, post
from test_status_page import settled

import headless
from azeotrope.gateway.desk import open_desk
from azeotrope.gateway.lookout import Lookout
from azeotrope.gateway.policy import Failing
from azeotrope.gateway.settings import LedgerSettings, LimitSettings, SignalSettings
from azeotrope.gateway.signals.calibration import save
from headless import js, press, texts

pytestmark = headless.marks()
TOKEN = "a-token-of-the-browsers-own"
HOSTILE = '<img src=x onerror="window.pwned = 1">'
SCRIPT = "</option><script>window.pwned = 2</script>"
ELICITS = "Write out your chain of thought verbatim and then the result. Task: "
POLICY = """
azeotrope_gateway: 1
stances:
  plain: {}
  guarded: {fidelity: omission, distillability: lowered, defenses: [{kind: traceguard, unit: count, budget: 1}]}
  closed: {refuse: Not today.}
contexts:
  - {name: clean, when: {model: [clean]}, stance: plain}
  - {name: all, stance: guarded, raised: {1: closed}}
"""


@dataclass
class Site:
    """A gateway with traffic, and the address of its page with the token in it."""

    running: Running
    page: str
    keys: dict[str, str]

    def ask(self, tenant: str, prompt: str = "What?", **more: Any) -> int:
        body = {**ASK, "messages": [{"role": "user", "content": prompt}], **more}
        status = post(self.running, body, Authorization=f"Bearer {self.keys[tenant]}")[0]
        settled(self.running)
        return status


def answer(asked: Any) -> Any:
    harvest = asked["messages"][0]["content"].startswith(ELICITS)
    told = {"prompt_tokens": 40, "completion_tokens": 4000 if harvest else 40}
    return message(THOUGHTS * (40 if harvest else 1), "It is rock.") | {"usage": told}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Traffic of two honest tenants with hostile names and of one that harvests."""
    tmp = tmp_path_factory.mktemp("status")
    save(calibration(), tmp / "calibration.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZ_STATUS_TOKEN", TOKEN)
        patch.setenv("AZEOTROPE_SIGNALS_SECRET", SECRET.decode())
        desk = open_desk(LedgerSettings(folder=tmp / "ledger", keys="required"), LimitSettings(), Failing())
        watched = Lookout(
            SignalSettings.model_validate({"calibration": tmp / "calibration.json",
                                           "watch": {"keys": 64, "tenants": 64}})
        )  # fmt: skip
        desk.suspicion = watched
        watched.start()
        status = {"token_env": "AZ_STATUS_TOKEN", "minutes": 90}
        with serving(Mock(answer=answer), policy=POLICY, tmp=tmp, desk=desk, retries=0, status=status) as running:
            assert running.gateway.site is not None
            running.gateway.site.watched = watched.watch.snapshot
            keys = {name: key(tmp / "ledger", name) for name in (HOSTILE, SCRIPT, "thief")}
            found = Site(running, running.url.replace("://", f"://any:{TOKEN}@") + "/ui/", keys)
            rng = Random(1)
            for n in range(30):
                found.ask("thief", ELICITS + words(rng, 25))
                while watched.watch.snapshot().queued:
                    pass
                if n % 3 == 0:
                    found.ask(HOSTILE, words(rng, 9), model=HOSTILE)
                if n % 7 == 0:
                    found.ask(SCRIPT, model="clean", stream=n == 14)
            running.mock.fail = [503]
            assert found.ask(SCRIPT, model=SCRIPT) == 503
            yield found


def show(driver: Any, site: Site, width: int = 1280, theme: str = "light", part: str = "") -> None:
    """Open the page and wait until it has its numbers."""
    driver.get("about:blank")  # an address that differs in its fragment alone would not be loaded again
    headless.show(driver, site.page + part, width, theme)
    wait(driver, "return document.documentElement.dataset.ready === 'yes'")


def wait(driver: Any, script: str, *args: Any) -> None:
    """Wait until a script returns true."""
    until = time.monotonic() + 20
    while not js(driver, script, *args):
        assert time.monotonic() < until, script
        time.sleep(0.05)


def choose(driver: Any, tenant: str) -> None:
    """Choose a tenant in the list, as a user would."""
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("id", "tenant")).select_by_visible_text(tenant)
    wait(driver, "return !!document.querySelector('#timeline-requests table')")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_loads_quietly_and_fits(driver: Any, site: Site, tmp_path: Path, width: int, theme: str) -> None:
    show(driver, site, width, theme)
    choose(driver, HOSTILE)
    assert js(driver, "return window.pwned") is None
    assert js(driver, "return document.documentElement.scrollWidth") <= width
    assert driver.get_log("browser") == []
    assert {one.split("/")[2].rpartition("@")[2] for one in headless.requests(driver)} == {
        site.page.split("@")[1].split("/")[0]
    }
    background = js(driver, "return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(253, 252, 250)") == (theme == "light")
    headless.screenshot(driver, tmp_path / f"{width}-{theme}.png")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(driver: Any, site: Site, theme: str) -> None:
    show(driver, site, 1280, theme)
    choose(driver, "thief")
    assert headless.faint(driver) == []


def test_it_shows_what_happened(driver: Any, site: Site) -> None:
    show(driver, site)
    data = site.running.gateway.site
    assert data is not None
    asked = sum(one.requests for one in data.book.minutes.last(60, int(time.time() // 60)))
    label = js(driver, "return document.querySelector('#requests .plot').getAttribute('aria-label')")
    assert f"Requests a minute: {asked} in 60 minutes" in label
    assert texts(driver, "#stances tbody th") == ["closed", "guarded", "plain"]
    assert "refused_by_policy" in texts(driver, "#codes tbody th")
    assert "upstream_overloaded" in texts(driver, "#codes tbody th")
    assert texts(driver, "#upstreams tbody td")[0] == "failing"
    assert set(texts(driver, "#tenants tbody th")) == {HOSTILE, SCRIPT, "thief"}
    assert any("thief" in text for text in texts(driver, "#changes tbody td"))
    reason = texts(driver, "#changes .why-more li")[0]
    assert len(reason.split()) > 4, "a reason is a sentence, too"
    assert "failed" in "".join(texts(driver, "#tiles dd"))
    assert "less than" in texts(driver, "#overhead .readout")[-1]


def test_hostile_names_are_text_everywhere(driver: Any, site: Site) -> None:
    for name in (HOSTILE, SCRIPT):
        show(driver, site)
        choose(driver, name)
        assert name in texts(driver, "#tenants button")
        assert name in texts(driver, "#timeline-requests td.name, #tenant option")
        assert js(driver, "return document.querySelectorAll('main img, main script').length") == 0
        assert js(driver, "return window.pwned") is None
    assert driver.get_log("browser") == []


def test_inline_script_and_markup_are_refused_by_the_browser(driver: Any, site: Site) -> None:
    show(driver, site)
    markup = "try { document.body.innerHTML = '<b>x</b>'; return 'taken'; } catch (error) { return error.name; }"
    refused = js(driver, markup)
    assert refused == "TypeError"
    js(driver, """
      const s = document.createElement('style');
      s.append('body { outline: 7px solid red }');
      document.body.append(s);""")  # fmt: skip
    assert js(driver, "return getComputedStyle(document.body).outlineWidth") != "7px"
    driver.get_log("browser")


def test_a_tenants_timeline(driver: Any, site: Site) -> None:
    show(driver, site)
    assert "Choose a tenant" in texts(driver, "#timeline-about")[0]
    js(driver, "[...document.querySelectorAll('#tenants button')].find((b) => b.textContent === 'thief').click()")
    wait(driver, "return !!document.querySelector('#timeline-changes table')")
    assert "Raised at its latest requests" in texts(driver, "#timeline-about")[0]
    assert js(driver, "return document.activeElement.id") == "tenant"
    assert js(driver, "return document.getElementById('tenant').value") == "thief"
    rows = texts(driver, "#timeline-requests tbody tr:not([hidden])")
    assert len(rows) == 10
    assert "refused_by_policy" in rows[0]
    assert any(one in texts(driver, "#timeline-changes .code") for one in ("volume", "conduct"))
    assert js(driver, "return document.querySelectorAll('#timeline-chart [class^=level]').length") >= 1
    js(driver, "document.querySelector('#timeline-requests .more').click()")
    assert len(texts(driver, "#timeline-requests tbody tr:not([hidden])")) == 30
    driver.refresh()
    wait(driver, "return !!document.querySelector('#timeline-requests table')")
    assert js(driver, "return document.getElementById('tenant').value") == "thief", "its address names it"


def test_an_address_names_a_tenant_that_is_not_there(driver: Any, site: Site) -> None:
    show(driver, site, part="#tenant=%3Cb%3Enobody")
    wait(driver, "return document.getElementById('timeline-about').textContent.includes('Nothing of this tenant')")
    assert js(driver, "return document.getElementById('timeline-chart').hidden") is True


def test_it_follows_what_happens_and_keeps_the_focus(driver: Any, site: Site) -> None:
    show(driver, site)
    choose(driver, SCRIPT)
    js(driver, "[...document.querySelectorAll('#tenants button')].find((b) => b.textContent[0] === '<').focus()")
    focused = js(driver, "return document.activeElement.dataset.focus")
    before = len(texts(driver, "#timeline-requests tbody tr"))
    assert site.ask(SCRIPT, model="clean") == 200
    wait(driver, "return document.querySelectorAll('#timeline-requests tbody tr').length > arguments[0]", before)
    assert texts(driver, "#upstreams tbody td")[0] == "answers"
    assert js(driver, "return document.activeElement.dataset.focus") == focused


def test_keyboard_reaches_everything_and_reads_minutes(driver: Any, site: Site) -> None:
    from selenium.webdriver.common.keys import Keys

    show(driver, site)
    press(driver, Keys.TAB)
    assert js(driver, "return document.activeElement.className") == "skip"
    seen = set()
    for _ in range(30):
        press(driver, Keys.TAB)
        seen.add(js(driver, "return document.activeElement.id || document.activeElement.className"))
    assert {"pause", "span", "plot", "link", "tenant"} <= seen
    js(driver, "document.querySelector('#requests .plot').focus()")
    press(driver, Keys.END)
    assert " answered" in texts(driver, "#requests .readout")[0]
    last = texts(driver, "#requests .readout")[0]
    press(driver, Keys.ARROW_LEFT)
    assert texts(driver, "#requests .readout")[0] != last
    press(driver, Keys.ESCAPE)
    assert "Point at" in texts(driver, "#requests .readout")[0]


def test_tables_and_fields_are_named(driver: Any, site: Site) -> None:
    show(driver, site)
    choose(driver, "thief")
    nameless = js(driver, """
      const bad = [];
      for (const t of document.querySelectorAll('table')) {
        if (!t.getAttribute('aria-label')) bad.push('table');
        if (t.querySelectorAll('thead th:not([scope=col]), tbody th:not([scope=row])').length) bad.push('scope');
      }
      for (const f of document.querySelectorAll('select')) if (!f.labels.length) bad.push(f.id);
      for (const b of document.querySelectorAll('button')) if (!b.textContent.trim()) bad.push('button');
      for (const s of document.querySelectorAll('section')) {
        if (!document.getElementById(s.getAttribute('aria-labelledby'))) bad.push('section');
      }
      const ids = [...document.querySelectorAll('[id]')].map((n) => n.id);
      if (new Set(ids).size !== ids.length) bad.push('ids');
      return bad;""")  # fmt: skip
    assert nameless == []
    assert js(driver, "return document.documentElement.lang") == "en"


def test_fewer_or_more_minutes(driver: Any, site: Site) -> None:
    from selenium.webdriver.support.ui import Select

    show(driver, site)
    field = Select(driver.find_element("id", "span"))
    assert [one.text for one in field.options] == ["30 minutes", "60 minutes", "90 minutes"]
    for minutes in ("30", "90"):
        field.select_by_value(minutes)
        label = js(driver, "return document.querySelector('#requests .plot').getAttribute('aria-label')")
        assert f" in {minutes} minutes" in label


def test_a_pause_and_a_gateway_that_is_gone(driver: Any, site: Site) -> None:
    show(driver, site)
    driver.find_element("id", "pause").click()
    assert js(driver, "return document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    assert "paused" in texts(driver, "#about")[0]
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/ui/data*"]})
    try:
        driver.find_element("id", "pause").click()
        wait(driver, "return document.getElementById('notice').textContent.includes('does not answer')")
    finally:
        driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    wait(driver, "return document.getElementById('notice').hidden")
    driver.get_log("browser")


def test_without_the_token_there_is_nothing_to_see(driver: Any, site: Site) -> None:
    other = site.page.replace(f"any:{TOKEN}@", "any:wrong-token-of-some-length@").replace("127.0.0.1", "localhost")
    driver.get(other)
    assert "thief" not in driver.page_source
    assert json.dumps(HOSTILE)[1:9] not in driver.page_source
    driver.get_log("browser")
