"""The optional sections in a real browser: what is drawn, where it stands, and that nothing breaks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from folders import edit
from synthetic_run import HOSTILE
from synthetic_tables import CONTROL, FAR_TASK, LACKING, LONG, PARTLY, UNKNOWN

import headless
from azeotrope.report import build
from azeotrope.report.sections import SECTIONS
from headless import choose, js, press, texts

pytestmark = headless.marks()
NAMES = [section.name for section in SECTIONS]
NEW = [name for name in NAMES if name != "recovery"]
PLACES = """
  const [row] = arguments;
  const x = (node) => { const box = node.getBoundingClientRect(); return box.left + box.width / 2; };
  const part = (selector) => [...row.querySelectorAll(selector)].map(x);
  return { marks: part('.dot-plot .mark'), references: part('line.reference'), zero: part('line.zero'),
    limits: part('line.limit') };"""


def opened(driver: Any, page: Path, width: int = 1280, theme: str = "light") -> None:
    """Show the page with every table unfolded."""
    headless.show(driver, page, width, theme)
    js(driver, "document.querySelectorAll('details').forEach((node) => { node.open = true; })")


def rows_of(driver: Any, section: str) -> dict[str, Any]:
    """The rows of a dot plot by the name of their arm."""
    rows = f"#{section} .dots .dot-row:not(.dot-axis)"
    return dict(js(driver, """return [...document.querySelectorAll(arguments[0])]
      .map((row) => [row.querySelector('.arm-name b').textContent, row])""", rows))  # fmt: skip


# All sections


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_open_tables_fit_and_every_choice_draws(driver: Any, page: Path, width: int, theme: str) -> None:
    opened(driver, page, width, theme)
    for name in NEW:
        for _ in range(2):  # the second time with the last of every choice
            text = js(driver, "return document.getElementById(arguments[0]).innerText", name)
            assert not re.search(r"\b(NaN|undefined|null|Infinity)\b", text)
            assert js(driver, "return document.documentElement.scrollWidth") <= width
            js(driver, """
              const bar = document.querySelector(`#${arguments[0]} .controls`);
              const selects = () => bar.querySelectorAll('select');
              for (let i = 0; i < selects().length; i += 1) {
                const list = selects()[i];
                if (list.closest('.field').firstChild.textContent === 'defense') continue;
                list.value = [...list.options].at(-1).value;
                list.dispatchEvent(new Event('change', { bubbles: true }));
              }""", name)  # fmt: skip
    assert driver.get_log("browser") == []
    assert headless.requests(driver) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_marks_and_names_stay_inside_the_page(driver: Any, page: Path, width: int) -> None:
    opened(driver, page, width)
    parts = ".dots .mark, .dots .range, .dot-ticks > span, .arm-name"
    out = js(driver, """return [...document.querySelectorAll(arguments[0])]
      .filter((node) => node.getClientRects().length).map((node) => node.getBoundingClientRect())
      .filter((box) => box.left < 0 || box.right > innerWidth).length""", parts)  # fmt: skip
    assert out == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_marks_have_contrast(driver: Any, page: Path, theme: str) -> None:
    headless.show(driver, page, 1280, theme)
    faint = js(driver, """
      const lum = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((a, v, i) => a + v * [0.2126, 0.7152, 0.0722][i], 0);
      const page = lum(getComputedStyle(document.body).backgroundColor);
      const ratio = (color) => {
        const [a, b] = [lum(color), page].sort((x, y) => x - y);
        return (b + 0.05) / (a + 0.05);
      };
      const style = (node) => getComputedStyle(node);
      const all = (selector) => [...document.querySelectorAll(selector)];
      return all('.dots .range').filter((n) => ratio(style(n).stroke) < 3).length
        + all('.dots .mark:not(.outside)').filter((n) => ratio(style(n).fill) < 3).length
        + all('.dots .zero').filter((n) => ratio(style(n).stroke) < 3).length;""")  # fmt: skip
    assert faint == 0


@pytest.mark.parametrize("name", ["utility", "governance", "detectability"])
def test_rows_are_one_tab_stop_with_a_tooltip(driver: Any, page: Path, name: str) -> None:
    from selenium.webdriver.common.keys import Keys

    headless.show(driver, page, 390, "dark")
    assert js(driver, f"return document.querySelectorAll('#{name} .dot-plot[tabindex=\"0\"]').length") == 1
    js(driver, f"document.querySelector('#{name} .dot-plot').focus()")
    first = texts(driver, "#tip")[0]
    press(driver, Keys.ARROW_DOWN)
    assert texts(driver, "#tip")[0] != first
    box = js(driver, "return document.getElementById('tip').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0
    assert box["right"] <= 390
    press(driver, Keys.END)
    press(driver, Keys.TAB)
    assert js(driver, "return document.activeElement.tagName") == "SUMMARY"


def test_a_select_keeps_the_focus_when_its_choice_changes_the_others(driver: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    headless.show(driver, page, 1280, "light")
    js(driver, "document.querySelector('#governance select').focus()")
    press(driver, Keys.ARROW_DOWN)
    focused = "return [document.activeElement.value, document.activeElement.closest('section').id]"
    assert js(driver, focused) == ["lookup", "governance"]


def test_hostile_names_are_text_everywhere(driver: Any, finished_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for section in SECTIONS:
        strings = [name for name, kind in section.schema.items() if kind == pl.String and name != "status"]
        edit(folder, f"{section.name}.parquet", lambda frame, s=strings: frame.with_columns(
            (pl.col(name) + HOSTILE).alias(name) for name in s))  # fmt: skip
    opened(driver, build(folder), 390)
    assert js(driver, "return document.documentElement.dataset.ready") == "yes"
    assert js(driver, "return window.pwned") is None
    assert js(driver, "return document.documentElement.scrollWidth") <= 390
    for name in NAMES:
        assert HOSTILE.strip() in js(driver, "return document.getElementById(arguments[0]).textContent", name)
    assert driver.get_log("browser") == []


def test_numbers_may_all_be_missing(driver: Any, finished_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for section in SECTIONS:
        floats = [name for name, kind in section.schema.items() if kind in (pl.Float64, pl.Int64)]
        edit(folder, f"{section.name}.parquet", lambda frame, f=floats: frame.with_columns(
            pl.lit(None, dtype=pl.Float64).alias(name) for name in f))  # fmt: skip
    opened(driver, build(folder))
    assert js(driver, "return document.documentElement.dataset.ready") == "yes"
    for name in NEW:
        text = js(driver, "return document.getElementById(arguments[0]).innerText", name)
        assert not re.search(r"\b(NaN|undefined|null|Infinity)\b", text)
    assert driver.get_log("browser") == []


# One by one


def test_utility_has_a_column_per_measure_and_a_row_per_arm_in_order(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    heads = texts(driver, "#utility .cell-head b")
    assert heads == ["Teacher accuracy", "Trace validity", "Reader accuracy", "Grounding", "Change of length"]
    rows = rows_of(driver, "utility")
    assert list(rows)[:5] == [f"ads lam={x}" for x in ("0.05", "0.1", "0.2", "0.4")] + ["traceguard budget=0.1"]
    assert list(rows)[-1] == LONG
    assert LACKING not in rows
    assert texts(driver, "#utility .dot-note")[0].endswith(f"Not measured: {LACKING}.")
    count = "return arguments[0].querySelectorAll(arguments[1]).length"
    assert js(driver, count, rows[PARTLY], ".no-value") == 2
    assert js(driver, count, rows[UNKNOWN], ".no-value") == 1
    assert js(driver, count, rows[LONG], ".mark.outside") == 1  # more than twice as long
    choose(driver, "defense", "traceguard", "#utility")
    assert list(rows_of(driver, "utility")) == [f"traceguard budget={x}" for x in ("0.1", "0.2", "0.4")]


def test_utility_marks_stand_where_the_table_says(driver: Any, page: Path) -> None:
    opened(driver, page)
    places = js(driver, PLACES, rows_of(driver, "utility")["traceguard budget=0.4"])
    assert len(places["zero"]) == 5
    assert len(places["limits"]) == 2
    unit = (places["limits"][1] - places["zero"][1]) / 5  # the limit of validity is 5 points
    assert (places["limits"][0] - places["zero"][0]) / unit == pytest.approx(2, abs=0.15)
    drawn = [(mark - zero) / unit for mark, zero in zip(places["marks"], places["zero"], strict=True)]
    table = js(driver, """return [...document.querySelectorAll('#utility tbody tr')].map((row) => [...row.cells]
      .map((cell) => cell.textContent)).filter((row) => row[0] === 'traceguard budget=0.4')""")  # fmt: skip
    assert drawn == pytest.approx([float(row[4].split(" ")[0]) for row in table], abs=0.25)
    assert table[4][1:5] == ["change of length", "84 tokens", "109 tokens", "30.0 [27.0, 33.0] %"]


def test_utility_is_stacked_with_names_on_a_narrow_page(driver: Any, page: Path) -> None:
    headless.show(driver, page, 390, "light")
    shown = js(driver, """return [...document.querySelectorAll('#utility .dot-row:nth-child(2) .cell-name')]
      .filter((node) => node.getClientRects().length).map((node) => node.textContent)""")  # fmt: skip
    assert shown == ["Teacher accuracy", "Trace validity", "Reader accuracy", "Grounding", "Change of length"]
    width = "return document.querySelector('#utility .dot-plot').getBoundingClientRect().width"
    assert js(driver, width) > 180


def test_governance_dumbbells_stand_between_undistilled_and_teacher(driver: Any, page: Path) -> None:
    opened(driver, page)
    rows = rows_of(driver, "governance")
    assert next(iter(rows)) == "none"
    places = js(driver, PLACES, rows["ads lam=0.2"])
    zero, one = places["references"]
    drawn = [100 * (mark - zero) / (one - zero) for mark in places["marks"]]
    table = js(driver, """return [...document.querySelectorAll('#governance tbody tr')].map((row) => [...row.cells]
      .map((cell) => cell.textContent)).find((row) => row[0] === 'ads lam=0.2')""")  # fmt: skip
    assert drawn == pytest.approx([float(cell.split(" ")[0]) for cell in table[1:3]], abs=0.6)
    gap = float(table[3].split(" ")[0])
    assert gap == pytest.approx(drawn[0] - drawn[1], abs=1)
    assert js(driver, "return document.querySelectorAll('#governance .joined').length") == len(rows)
    assert texts(driver, "#governance .key span") == ["capability: accuracy", "governance: refusal consistency"]


def test_governance_says_where_there_is_nothing_to_transfer(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    choose(driver, "student", "llama-small", "#governance")
    choose(driver, "governance", "answer_stability", "#governance")
    told = set(texts(driver, "#governance .no-value"))
    assert told == {"nothing to transfer: teacher 90.0 %, undistilled 90.0 %, student 88.0 %"}
    assert js(driver, "return document.querySelectorAll('#governance .dots .mark:not(.arm-name *)').length") == 0


def test_matrix_prints_its_numbers_and_frames_the_protected_task(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    table = js(driver, """return [...document.querySelectorAll('#matrix .heat tbody tr:not(.lock)')].map((row) =>
      [...row.cells].slice(1).map((cell) => [cell.className, cell.innerText.split('\\n').filter(Boolean)]))
      """)  # fmt: skip
    heads = [f"measured on {task}" for task in ("arithmetic", "lookup", FAR_TASK)]
    assert texts(driver, "#matrix .heat thead th")[1:] == heads
    assert texts(driver, "#matrix .lock") == ["protects arithmetic", "protects lookup"]
    assert [[("own" in kind.split()) for kind, _ in row] for row in table] == [[True, False, False]] * 2 + [
        [False, True, False]
    ] * 3
    kind, cell = table[0][0]
    assert kind == "own"
    assert re.fullmatch(
        r"\+1\d\.\d \[\+\d\.\d, \+1\d\.\d\] teacher \+2\.0 \[\+1\.0, \+3\.0\] protected", " ".join(cell)
    )
    assert "unsure" in table[0][1][0]
    assert table[4][0][1] == ["not measured"]
    assert texts(driver, "#matrix .matrix-scale .stop")[2] == "0.0"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_matrix_tints_by_sign_and_size_and_leaves_zero_neutral(driver: Any, page: Path, theme: str) -> None:
    headless.show(driver, page, 1280, theme)
    stops = js(driver, """return [...document.querySelectorAll('#matrix .stop')].map((node) =>
      getComputedStyle(node).backgroundColor.match(/[\\d.]+/g).map(Number).slice(-3))""")  # fmt: skip
    ground = js(
        driver, "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map((v) => v / 255)"
    )
    assert stops[2] == pytest.approx(ground, abs=0.01)
    away = [sum(abs(a - b) for a, b in zip(stop, ground, strict=True)) for stop in stops]
    assert away[0] > away[1] > away[2] < away[3] < away[4]
    redder = [stop[0] - stop[1] for stop in stops]
    assert redder[0] > redder[2] > redder[4]


def test_detectability_has_the_control_first_and_guessing_marked(driver: Any, page: Path) -> None:
    opened(driver, page)
    rows = rows_of(driver, "detectability")
    assert list(rows)[:2] == [CONTROL, "ads lam=0.05"]
    assert texts(driver, "#detectability .control-row .arm-name")[0].startswith("clean resample the control")
    ticks = texts(driver, "#detectability .dot-ticks > span")
    assert ticks[:2] == ["0.5guessing", "1always"]
    places = js(driver, PLACES, rows["ads lam=0.4"])
    assert len(places["marks"]) == 2
    assert all(mark > places["references"][0] for mark in places["marks"])
    assert "group not measured" in js(driver, "return arguments[0].innerText", rows[PARTLY])
    choose(driver, "defense", "traceguard", "#detectability")
    assert list(rows_of(driver, "detectability"))[0] == CONTROL  # noqa: RUF015
    assert len(rows_of(driver, "detectability")) == 4


def test_detectability_table_has_every_figure_with_its_control_first(driver: Any, page: Path) -> None:
    opened(driver, page)
    for measure, wanted in (("token_delta", "0.0 %"), ("tfidf_cosine", "0.8"), ("marker_rate_difference", "0"),
                            ("tpr_at_fpr", "1.0 %")):  # fmt: skip
        choose(driver, "measure", measure, "#detectability")
        first = js(driver, """return [...document.querySelector('#detectability tbody tr').cells]
          .filter((cell) => !cell.hidden).map((cell) => cell.textContent)""")  # fmt: skip
        assert first[0] == CONTROL
        assert wanted in first
    assert "the thresholds need 99 clean calibration traces" in texts(driver, "#detectability tbody")[0]


def test_detectability_without_a_trained_detector_keeps_its_table(
    driver: Any, finished_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    edit(folder, "detectability.parquet", lambda frame: frame.filter(pl.col("measure") == "token_delta"))
    opened(driver, build(folder))
    assert texts(driver, "#detectability .empty") == [
        "No detector with an AUROC was run; the table has the other figures."
    ]
    assert len(texts(driver, "#detectability tbody tr")) == 22
    assert driver.get_log("browser") == []
