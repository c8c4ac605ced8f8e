"""The report in a real browser: both widths and themes, no errors, no requests, everything operable."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from synthetic_run import HOSTILE

import headless
from azeotrope.report import build
from headless import choose, js, press, texts

pytestmark = headless.marks()
WIDTHS = (390, 768, 1280)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_loads_quietly_and_fits(driver: Any, page: Path, tmp_path: Path, width: int, theme: str) -> None:
    headless.show(driver, page, width, theme)
    assert js(driver, "return document.documentElement.dataset.ready") == "yes"
    assert js(driver, "return window.pwned") is None
    assert js(driver, "return document.documentElement.scrollWidth") <= width
    assert js(driver, "return innerWidth") == width
    assert driver.get_log("browser") == []
    assert headless.requests(driver) == []
    background = js(driver, "return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(253, 252, 250)") == (theme == "light")
    headless.screenshot(driver, tmp_path / f"{width}-{theme}.png")


def test_a_request_would_be_seen(driver: Any, tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text("<img src='http://127.0.0.1:9/loud.png'>")
    headless.show(driver, page, 1280, "light")
    assert headless.requests(driver) == ["http://127.0.0.1:9/loud.png"]
    driver.get_log("browser")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(driver: Any, page: Path, theme: str) -> None:
    headless.show(driver, page, 1280, theme)
    assert headless.faint(driver) == []


def test_theme_toggle_switches_and_is_remembered(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    js(driver, "document.getElementById('theme').click()")
    assert js(driver, "return getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    driver.refresh()
    assert js(driver, "return getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    js(driver, "document.getElementById('theme').click(); localStorage.clear()")


def test_selectors_change_the_plot(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    seen = set()
    for label, value in (("task", "lookup"), ("student", "llama-small"), ("attack", "sft"),
                         ("honest users keep", "trace_validity"), ("honest users keep", "reader_accuracy"),
                         ("honest users keep", "grounding"), ("the thief gets", "recall_hidden"),
                         ("the thief gets", "s_minus_t")):  # fmt: skip
        choose(driver, label, value, "#tradeoff")
        drawn = js(driver, "return document.getElementById('tradeoff-plot').innerHTML")
        assert "NaN" not in drawn
        seen.add(drawn)
    assert len(seen) == 8
    assert any("student minus teacher" in text for text in texts(driver, "#tradeoff-plot .axis-name"))
    assert js(driver, "return document.querySelectorAll('#tradeoff-plot .line.control').length") == 4
    assert js(driver, "return document.querySelectorAll('#tradeoff-plot .line').length") == 6


def test_zoom_shows_the_first_five_points(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    whole = texts(driver, "#tradeoff-plot .axes text")
    js(driver, "document.getElementById('zoom').click()")
    ticks = [float(t) for t in texts(driver, "#tradeoff-plot .axes text[text-anchor=middle]")]
    assert min(ticks) >= 87.4
    assert max(ticks) <= 94.6
    assert js(driver, "return document.getElementById('zoom').getAttribute('aria-pressed')") == "true"
    js(driver, "document.getElementById('zoom').click()")
    assert texts(driver, "#tradeoff-plot .axes text") == whole


def test_legend_switches_lines_off_and_on(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    count = "return document.querySelectorAll('#tradeoff-plot g.series').length"
    before = js(driver, count)
    js(driver, "document.querySelector('#tradeoff-legend button').click()")
    assert js(driver, count) == before - 1
    js(driver, "document.querySelectorAll('#tradeoff-legend button').forEach((b, i) => i && b.click())")
    assert js(driver, count) == 0
    assert len(texts(driver, "#tradeoff-legend [aria-pressed=false]")) == before
    js(driver, "document.querySelector('#tradeoff-legend button').click()")
    assert js(driver, count) == 1


@pytest.mark.parametrize("width", [390, 1280])
def test_tooltip_by_pointer_stays_on_screen(driver: Any, page: Path, width: int) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    headless.show(driver, page, width, "light")
    js(driver, "document.getElementById('tradeoff-plot').scrollIntoView({ block: 'center' })")
    for index in (0, 4):
        mark = driver.find_elements("css selector", "#tradeoff-plot .hit")[index]
        ActionChains(driver).move_to_element(mark).perform()
        assert js(driver, "return document.getElementById('tip').hidden") is False
        box = js(driver, "return document.getElementById('tip').getBoundingClientRect().toJSON()")
        assert box["left"] >= 0
        assert box["right"] <= width
    assert "n = 400, 5 seeds" in texts(driver, "#tip")[0]


def test_keyboard_reaches_the_marks_and_moves_between_them(driver: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    headless.show(driver, page, 1280, "light")
    js(driver, "[...document.querySelectorAll('#tradeoff-legend button')].at(-1).focus()")
    press(driver, Keys.TAB)
    where = "return document.activeElement.getAttribute('aria-label')"
    assert js(driver, where).startswith("undefended")
    press(driver, Keys.ARROW_RIGHT)
    assert js(driver, where).startswith("ads lam=0.05. teacher accuracy ")
    assert texts(driver, "#tip")[0].startswith("ads lam=0.05")
    press(driver, Keys.END)
    assert js(driver, where).startswith("temperature")
    press(driver, Keys.ESCAPE)
    assert js(driver, "return document.getElementById('tip').hidden") is True
    press(driver, Keys.TAB)
    assert js(driver, "return document.activeElement.closest('section').id") == "equal"


def test_first_tab_stop_skips_to_the_verdict_and_focus_is_visible(driver: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    headless.show(driver, page, 1280, "light")
    press(driver, Keys.TAB)
    assert js(driver, "return document.activeElement.className") == "skip"
    assert js(driver, "return getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_equal_cost_table_filters_and_sorts(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    rows = "#equal-table tbody tr"
    assert len(texts(driver, rows)) == 20
    choose(driver, "equal drop", "0.1", "#equal")
    choose(driver, "student", "llama-small", "#equal")
    assert len(texts(driver, rows)) == 10
    js(driver, "document.querySelectorAll('#equal-table th button')[1].click()")
    values = [float(t.replace("−", "-")) for t in texts(driver, f"{rows} td:nth-child(2)") if t != "–"]
    assert values == sorted(values)
    assert texts(driver, "#equal-table th[aria-sort=ascending]") == ["Difference"]
    assert {"below", "not separable", "not reached"} <= set(texts(driver, "#equal-table .chip"))


RECOVERED = """
  return [...document.querySelectorAll('#recovery .dot-arm')].map((arm) => [
    arm.querySelector('.dot-head b').textContent,
    [...arm.querySelectorAll('.attack')].map((n) => n.textContent)]);"""
RESAMPLED = "resampled_sft(check=consensus, tries=4)"
WORST_FIRST = ["sft_filtered", "trace_inversion", RESAMPLED, "answers_only"]


def test_recovery_picture_has_the_worst_case_first_inside_each_arm(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    found = js(driver, RECOVERED)
    assert [arm for arm, _ in found][:5] == [f"ads lam={x}" for x in ("0.05", "0.1", "0.2", "0.4")] + [
        "traceguard budget=0.1"
    ]
    assert all(attacks == WORST_FIRST for _, attacks in found)
    js(driver, "document.querySelector('#recovery .quiet:not([hidden])').click()")
    assert len(js(driver, RECOVERED)) == 21
    choose(driver, "defense", "gaussian", "#recovery")
    assert [arm for arm, _ in js(driver, RECOVERED)] == [f"gaussian sigma={x}" for x in ("0.5", "1", "2")]
    lost = texts(driver, "#recovery .nothing-lost")
    assert len(lost) == 4
    assert re.fullmatch(r"nothing lost; gain \+\d\.\d \[\+\d\.\d, \+\d\.\d\] points", lost[0])
    assert js(driver, "return document.querySelectorAll('#recovery .dot-plot').length") == 8
    seen = {js(driver, "return document.getElementById('recovery-view').innerText")}
    for label, value in (("task", "lookup"), ("student", "llama-small"), ("what the thief gets", "recall_hidden")):
        choose(driver, label, value, "#recovery")
        text = js(driver, "return document.getElementById('recovery-view').innerText")
        assert not re.search(r"\b(NaN|undefined|null|Infinity)\b", text)
        seen.add(text)
    assert len(seen) == 4


def test_recovery_references_stand_at_zero_and_one(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    zero, one, dot, low, high = js(driver, """
      const image = document.querySelector('#recovery .dot-plot');
      const x = (node) => node.getBoundingClientRect().left + node.getBoundingClientRect().width / 2;
      const range = image.querySelector('line.range').getBoundingClientRect();
      const references = [...image.querySelectorAll('.reference')].map(x);
      return [...references, x(image.querySelector('.mark')), range.left, range.right];""")  # fmt: skip
    shown = texts(driver, "#recovery-view tbody tr:first-child td:nth-child(7)")[0]
    told = [float(part) for part in re.findall(r"[−\d.]+", shown)]
    assert [100 * (x - zero) / (one - zero) for x in (dot, low, high)] == pytest.approx(told, abs=0.6)
    ticks = js(driver, """return [...document.querySelectorAll('#recovery .dot-ticks > span')].map((n) =>
      [n.innerText, n.getBoundingClientRect().left + n.getBoundingClientRect().width / 2])""")  # fmt: skip
    named = {text.split("\n")[-1]: x for text, x in ticks if "\n" in text}
    assert named == pytest.approx({"passive": zero, "undefended": one}, abs=1)


@pytest.mark.parametrize("table", ["#recovery-view", "#recovery-price"])
def test_recovery_tables_start_with_the_worst_case_and_sort(driver: Any, page: Path, table: str) -> None:
    headless.show(driver, page, 1280, "light")
    choose(driver, "defense", "gaussian", "#recovery")
    heads = texts(driver, f"{table} th")
    assert texts(driver, f"{table} tbody td:nth-child(2)") == [*WORST_FIRST] * 3
    js(driver, f"document.querySelectorAll('{table} th button')[{heads.index('Recovery')}].click()")
    column = texts(driver, f"{table} tbody td:nth-child({heads.index('Recovery') + 1})")
    values = [float(text.split(" ")[0].replace("−", "-")) for text in column if text != "nothing lost"]
    assert len(values) == 8
    assert values == sorted(values)
    assert column[-4:] == ["nothing lost"] * 4
    assert texts(driver, f"{table} th[aria-sort=ascending]") == ["Recovery"]


def test_recovery_names_its_price_per_student(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    heads = texts(driver, "#recovery-price th")
    assert heads[-4:] == ["Own tokens", "Trained tokens", "Seconds more than passive", "Seconds in all"]
    rows = js(driver, """return [...document.querySelectorAll('#recovery-price tbody tr')].slice(0, 4)
      .map((row) => [...row.cells].slice(-7).map((cell) => cell.textContent))""")  # fmt: skip
    assert rows == [
        ["0", "0", "0", "0", "410,000", "50.2", "55.2"],
        ["3,000", "0", "252,000", "1,250,000", "410,000", "406", "411"],
        ["9,000", "0", "756,000", "0", "410,000", "255", "260"],
        ["0", "0", "0", "0", "410,000", "16.4", "21.4"],
    ]  # fmt: skip


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_recovery_intervals_have_contrast_and_names_fit(driver: Any, page: Path, width: int, theme: str) -> None:
    headless.show(driver, page, width, theme)
    faint, out = js(driver, """
      const lum = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((a, v, i) => a + v * [0.2126, 0.7152, 0.0722][i], 0);
      const page = lum(getComputedStyle(document.body).backgroundColor);
      const all = (selector) => [...document.querySelectorAll(selector)];
      const strokes = all('#recovery .range, #recovery .whisker .span').map((n) => getComputedStyle(n));
      const ratio = (s) => {
        const [a, b] = [lum(s.stroke), page].sort((x, y) => x - y);
        return (b + 0.05) / (a + 0.05);
      };
      const names = all('#recovery .dot-ticks > span').map((n) => n.getBoundingClientRect());
      return [strokes.filter((s) => s.opacity !== '1' || ratio(s) < 3).length,
        names.filter((b) => b.left < 0 || b.right > innerWidth).length];""")  # fmt: skip
    assert (faint, out) == (0, 0)


def test_recovery_rows_are_one_tab_stop_with_a_tooltip(driver: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    headless.show(driver, page, 390, "dark")
    js(driver, "document.querySelector('#recovery .dot-plot').focus()")
    told = texts(driver, "#tip")[0]
    assert told.startswith("ads lam=0.05, sft_filtered")
    assert "n = 400, 5 seeds" in told
    price = "0 queries, 0 leaked traces, 0 tokens of both, 0 own tokens, 410,000 trained tokens"
    assert f"{price}, 50.2 seconds more than passive, 55.2 seconds in all" in told
    press(driver, Keys.END)
    assert js(driver, "return document.activeElement.closest('.dot-arm') !== null")
    press(driver, Keys.TAB)
    assert js(driver, "return document.activeElement.className") == "quiet"


def test_a_long_name_in_prose_is_broken(driver: Any, page: Path) -> None:
    headless.show(driver, page, 390, "light")
    js(
        driver,
        """
      for (const node of document.querySelectorAll('main p, main h2, main h3, main li, main summary'))
        node.textContent = 'cmi+topk_logprobs+round_logprobs+'.repeat(3);""",
    )
    assert js(driver, "return document.documentElement.scrollWidth") <= 390


def test_extreme_and_hostile_recoveries_stay_inside(driver: Any, finished_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    frame = pl.read_parquet(folder / "recovery.parquet")
    frame = frame.filter(pl.col("arm") == "ads lam=0.1").with_columns(
        pl.col("attack").replace("sft_filtered", HOSTILE),
        recovery=pl.col("recovery") * 40,
        recovery_low=pl.col("recovery_low") * 60,
        recovery_high=pl.col("recovery_high") * 60,
    )
    frame.write_parquet(folder / "recovery.parquet")
    headless.show(driver, build(folder), 390, "light")
    assert js(driver, "return document.documentElement.dataset.ready") == "yes"
    assert js(driver, "return window.pwned") is None
    assert js(driver, "return document.documentElement.scrollWidth") <= 390
    assert HOSTILE in texts(driver, "#recovery .attack")
    assert HOSTILE in texts(driver, "#recovery tbody td")
    assert "An arrow marks an interval that goes on" in texts(driver, "#recovery .count")[0]
    assert js(driver, "return document.querySelectorAll('#recovery .mark.outside').length") > 0
    assert js(driver, """return [...document.querySelectorAll('#recovery .dot-plot *')]
      .map((n) => n.getBoundingClientRect()).every((b) => b.left >= 0 && b.right <= innerWidth)""")  # fmt: skip
    assert driver.get_log("browser") == []


def test_results_table_searches_and_expands(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    rows = "#results-table tbody tr"
    assert len(texts(driver, rows)) == 22 * 2 * 2 + 2  # one task, the headline measure
    choose(driver, "task", "*", "#results")
    choose(driver, "measure", "*", "#results")
    assert len(texts(driver, rows)) == 100
    assert texts(driver, "#results .count") == ["1,548 rows, the first 100 shown"]
    js(driver, """const f = document.querySelector('#results-table input');
      f.value = 'traceguard llama nowhere'; f.dispatchEvent(new Event('input'));""")  # fmt: skip
    assert len(texts(driver, rows)) == 0
    js(driver, """const f = document.querySelector('#results-table input');
      f.value = 'traceguard llama'; f.dispatchEvent(new Event('input'));""")  # fmt: skip
    js(driver, "document.querySelector('#results-table .quiet').click()")
    found = texts(driver, rows)
    assert len(found) == 2 * 3 * 2 * 7
    assert all("traceguard" in row and "llama-small" in row for row in found)


def test_traces_show_tokens_removed_sentences_and_hostile_text_as_text(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    assert js(driver, "return document.querySelectorAll('#traces .token').length") > 5
    assert "nats" in texts(driver, "#traces .heat-scale")[0]
    choose(driver, "arm", "traceguard budget=0.2", "#traces")
    assert not {"null", "undefined", "NaN"} & set(js(driver, "return document.body.innerText").split())
    assert texts(driver, "#traces del")[0].startswith("Wait, I should check")
    choose(driver, "problem", "2", "#traces")
    assert "<script>window.pwned" in texts(driver, "#traces .prompt")[0]
    for arm in ("ads lam=0.4", "none"):
        choose(driver, "arm", arm, "#traces")
        assert "</script><script>window.pwned = 1</script>" in texts(driver, "#traces .side .trace")[-1]
    assert js(driver, "return window.pwned") is None


def test_losses_have_a_panel_per_arm(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    assert len(texts(driver, "#losses .panel")) == 22
    assert js(driver, "return document.querySelectorAll('#losses .panel:nth-child(2) .curve').length") == 9
    assert "NaN" not in js(driver, "return document.getElementById('losses-view').innerHTML")


def test_bare_run_shows_one_line_per_absent_part(driver: Any, finished_run: Path, tmp_path: Path) -> None:
    for name in ("manifest.json", "results.parquet"):
        (tmp_path / name).write_bytes((finished_run / name).read_bytes())
    headless.show(driver, build(tmp_path), 390, "dark")
    assert len(texts(driver, "main > section .empty")) == 4
    assert driver.get_log("browser") == []
    assert js(driver, "return document.documentElement.scrollWidth") <= 390
