"""Every defense against every attack in a real browser: order, numbers, tints, keys, scrolling."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from synthetic_gains import FACED, GAPPY, crowd

import headless
from azeotrope.report import build
from headless import choose, js, press, texts

pytestmark = headless.marks()
FIXED = 3  # columns before those of the attacks: arm, worst case, teacher
CELLS = """
  return [...document.querySelectorAll('#gains .kept tbody tr')].map((row) => ({
    arm: row.querySelector('.arm-name b').textContent, head: row.cells[0].textContent,
    cells: [...row.cells].slice(1).map((cell) => ({
      text: cell.querySelector('.kept-cell').firstChild.textContent, whole: cell.textContent, kind: cell.className,
      label: cell.querySelector('.kept-cell').getAttribute('aria-label'),
      tint: getComputedStyle(cell).backgroundColor,
    })) }));"""
LUMINANCE = """
  const lum = (c) => (c.startsWith('color(') ? c.match(/[\\d.]+/g).slice(0, 3).map(Number)
    : c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255))
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((a, v, i) => a + v * [0.2126, 0.7152, 0.0722][i], 0);"""


@pytest.fixture(scope="module")
def crowded(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study of twelve arms and twenty-five attacks."""
    folder = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("crowd") / "run"))
    pl.DataFrame(crowd(12, 25), infer_schema_length=None).write_parquet(folder / "gains.parquet")
    return build(folder)


def chosen(run: Path, **where: str) -> pl.DataFrame:
    """The rows of the stored table that a view shows."""
    wanted = {"task": "arithmetic", "student": "gpt-small", "metric": "student_accuracy", **where}
    return pl.read_parquet(run / "gains.parquet").filter(*(pl.col(key) == value for key, value in wanted.items()))


def test_rows_are_ordered_by_their_worst_case(driver: Any, page: Path, finished_run: Path) -> None:
    headless.show(driver, page, 1280, "light")
    rows = js(driver, CELLS)
    assert [row["arm"] for row in rows[-2:]] == [GAPPY, "none"]
    assert "2 of 6 attacks not measured" in rows[-2]["head"]
    assert not any("not measured" in row["head"] for row in rows[:-2])
    worst = chosen(finished_run).filter("worst", ~pl.col("arm").is_in(["none", GAPPY])).sort("retained")
    shown = {row["arm"]: i for i, row in enumerate(rows)}
    assert set(shown) == {*worst["arm"], GAPPY, "none"}
    found = [(shown[arm], level) for arm, level in worst.select("arm", "retained").rows()]
    for (before, lower), (after, higher) in itertools.combinations(found, 2):
        assert before < after or higher - lower < 1e-9


def test_columns_are_grouped_by_access_and_ordered_by_their_mean(
    driver: Any, page: Path, finished_run: Path
) -> None:
    headless.show(driver, page, 1280, "light")
    heads = texts(driver, "#gains .kept thead tr:last-child th")
    groups = ["text", "top-k log-probabilities", "all log-probabilities"]
    assert texts(driver, "#gains .kept .group") == [f"reads {name}" for name in groups]
    spans = js(driver, "return [...document.querySelectorAll('#gains .kept .group')].map((n) => n.colSpan)")
    assert spans == [3, 1, 2]
    means = chosen(finished_run).filter(pl.col("arm") != "none").group_by("attack").agg(pl.col("retained").mean())
    mean = dict(means.rows())
    access = ["text", "topk_logprobs", "full_logits"]
    assert heads == sorted(FACED, key=lambda name: (access.index(FACED[name][0]), -mean[name]))


def test_cells_hold_the_stored_numbers_and_the_worst_is_framed_and_repeated(
    driver: Any, page: Path, finished_run: Path
) -> None:
    headless.show(driver, page, 1280, "light")
    heads = texts(driver, "#gains .kept thead tr:last-child th")
    stored = {(row["arm"], row["attack"]): row for row in chosen(finished_run).iter_rows(named=True)}
    for row in js(driver, CELLS):
        worst, teacher, *cells = row["cells"]
        assert len(cells) == len(heads)
        framed = [cell for cell in cells if "own" in cell["kind"]]
        assert len(framed) == 1
        assert framed[0]["text"] == worst["text"]
        assert framed[0]["label"].startswith(f"{row['arm']}, ")
        assert ": the worst case. " in framed[0]["label"]
        for name, cell in zip(heads, cells, strict=True):
            want = stored[row["arm"], name]
            if want["retained"] is None:
                assert (cell["text"], cell["label"]) == ("–", f"{row['arm']}, {name}. not measured")
                continue
            assert int(cell["text"].replace("−", "-")) == pytest.approx(100 * want["retained"], abs=0.5001)
            told = re.search(r"\[(.*?), (.*?)\] of the best", cell["label"])
            assert told
            low, high = 100 * want["retained_low"], 100 * want["retained_high"]
            assert [float(x.replace("−", "-")) for x in told.groups()] == pytest.approx([low, high], abs=0.0501)
            assert ("own" in cell["kind"]) == want["worst"]
            assert ("unsure" in cell["kind"]) == (want["retained_low"] <= 0)
        assert float(teacher["text"]) == pytest.approx(100 * want["teacher_accuracy"], abs=0.0501)
        none = row["arm"] == "none"
        assert ("drop" in teacher["whole"], "[" in worst["whole"]) == (not none, not none)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_more_is_further_from_the_page_in_lightness_and_stays_readable(
    driver: Any, page: Path, theme: str
) -> None:
    """Lightness alone orders the tints, so that no kind of color vision is needed."""
    headless.show(driver, page, 1280, theme)
    stops = js(driver, LUMINANCE + """
      return [document.body, ...document.querySelectorAll('#gains .stop')]
        .map((node) => lum(getComputedStyle(node).backgroundColor));""")  # fmt: skip
    ground, *levels = stops
    assert levels[0] == pytest.approx(ground, abs=1e-3)
    away = [abs(level - ground) for level in levels]
    assert away == sorted(away)
    assert min(b - a for a, b in itertools.pairwise(away)) > 0.005
    ratios = js(driver, LUMINANCE + """
      return [...document.querySelectorAll('#gains .kept td, #gains .stop')].map((node) => {
        const style = getComputedStyle(node);
        const [a, b] = [lum(style.color), lum(style.backgroundColor)].sort((x, y) => x - y);
        return (b + 0.05) / (a + 0.05); });""")  # fmt: skip
    assert min(ratios) >= 4.5
    frames = js(driver, "return getComputedStyle(document.querySelector('#gains .kept .own')).boxShadow")
    assert "inset" in frames


def test_tints_follow_the_numbers(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    pairs = js(driver, LUMINANCE + """
      return [...document.querySelectorAll('#gains .kept td:not(.side-teacher)')].map((cell) =>
        [cell.querySelector('.kept-cell').firstChild.textContent, lum(getComputedStyle(cell).backgroundColor)]);
      """)  # fmt: skip
    known = sorted(
        (min(100.0, max(0.0, float(text.replace("−", "-")))), shade) for text, shade in pairs if text != "–"
    )
    assert len(known) == 22 * 7 - 2
    ground = js(driver, LUMINANCE + "return lum(getComputedStyle(document.body).backgroundColor);")
    assert known[0] == (0.0, pytest.approx(ground, abs=1e-3))
    for (x, light), (y, dark) in itertools.combinations(known, 2):
        assert dark < light or y - x < 1.01  # texts are rounded


def test_without_a_gain_the_cells_hold_points_and_say_why(driver: Any, page: Path) -> None:
    headless.show(driver, page, 1280, "light")
    choose(driver, "student", "llama-small", "#gains")
    choose(driver, "what the thief gets", "recall_hidden", "#gains")
    rows = js(driver, CELLS)
    assert rows[-1]["arm"] == "none"
    assert all(re.fullmatch(r"[+−]?\d\.\d|–", cell["text"]) for row in rows for cell in row["cells"][2:])
    ground = js(
        driver, "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map((v) => v / 255)"
    )
    tint = [float(v) for v in re.findall(r"[\d.]+", rows[0]["cells"][2]["tint"])]
    assert tint[:3] == pytest.approx(ground, abs=0.01)
    note = texts(driver, "#gains .dot-note")[0]
    assert (
        "No share: no attack is shown to gain anything without a defense; the cells hold the gain in points."
        in note
    )
    assert "no share: no attack" in rows[0]["cells"][0]["label"]


def test_arrow_keys_move_through_the_grid(driver: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    headless.show(driver, page, 390, "dark")
    assert js(driver, "return document.querySelectorAll('#gains .kept-cell[tabindex=\"0\"]').length") == 1
    js(driver, "document.querySelector('#gains .kept-cell').focus()")
    place = """const cell = document.activeElement.closest('td');
      return [cell.parentNode.rowIndex, cell.cellIndex]"""
    row, column = js(driver, place)
    assert texts(driver, "#tip")[0].startswith("ads lam=0.4: worst case")
    steps = ((Keys.ARROW_UP, 0, 0), (Keys.ARROW_RIGHT, 0, 1), (Keys.ARROW_DOWN, 1, 1), (Keys.ARROW_DOWN, 2, 1),
             (Keys.ARROW_LEFT, 2, 0), (Keys.ARROW_UP, 1, 0))  # fmt: skip
    for key, down, right in steps:
        press(driver, key)
        assert js(driver, place) == [row + down, column + right]
    press(driver, Keys.END)
    box = js(driver, "return document.getElementById('tip').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0
    assert box["right"] <= 390
    assert box["width"] > 100
    press(driver, Keys.ESCAPE)
    assert js(driver, "return document.getElementById('tip').hidden") is True
    press(driver, Keys.TAB)
    assert js(driver, "return document.activeElement.tagName") == "SUMMARY"


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_a_crowd_scrolls_inside_its_own_box_under_the_names(driver: Any, crowded: Path, width: int) -> None:
    headless.show(driver, crowded, width, "light")
    assert js(driver, "return document.documentElement.scrollWidth") <= width
    assert len(js(driver, CELLS)) == 12
    box = "document.querySelector('#gains .kept-box')"
    assert js(driver, f"return {box}.scrollWidth - {box}.clientWidth") > 100
    measured = """
      const box = document.querySelector('#gains .kept-box');
      box.scrollLeft = arguments[0];
      const name = document.querySelector('#gains .kept tbody tr th').getBoundingClientRect();
      const corner = document.querySelector('#gains .kept thead th').getBoundingClientRect();
      const sides = ['.side-case', '.side-teacher'].map((side) => {
        const [head, cell] = document.querySelectorAll(`#gains .kept ${side}`);
        return [head, cell].map((node) => node.getBoundingClientRect().left - name.right);
      });
      const top = document.elementFromPoint(name.left + name.width / 2, name.top + name.height / 2);
      const left = box.getBoundingClientRect().left;
      return [name.left - left, corner.left - left, name.width, top.closest('th, td').tagName, sides];"""
    js(driver, f"{box}.scrollIntoView({{ block: 'center' }})")
    for offset in (0, 400):
        name, corner, size, hit, sides = js(driver, measured, offset)
        assert (name, corner, hit) == (pytest.approx(0, abs=1), pytest.approx(0, abs=1), "TH")
        if width > 900 or offset == 0:  # on a wide page what the row costs stays with its name
            side = 72 if width < 600 else 89.6
            assert sides == [pytest.approx([0, 0], abs=1), pytest.approx([side, side], abs=1)]
    assert size < 0.4 * width
    assert driver.get_log("browser") == []


def test_a_focused_cell_is_not_hidden_under_the_names(driver: Any, crowded: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    headless.show(driver, crowded, 390, "light")
    js(driver, "document.querySelector('#gains .kept-cell').focus()")
    press(driver, Keys.END)
    js(driver, "document.querySelectorAll('#gains .kept tbody tr:last-child .kept-cell')[14].focus()")
    for _ in range(8):
        press(driver, Keys.ARROW_LEFT)
        cell, names = js(driver, """
          return [document.activeElement, document.querySelector('#gains .kept tbody tr:last-child th')]
            .map((node) => node.getBoundingClientRect().toJSON());""")  # fmt: skip
        assert cell["left"] >= names["right"] - 2


def test_headings_of_attacks_stay_inside_their_columns(driver: Any, crowded: Path) -> None:
    headless.show(driver, crowded, 1280, "light")
    out, tallest = js(driver, """
      const heads = [...document.querySelectorAll('#gains .kept th.attack')];
      const inside = (node) => {
        const [a, b] = [node.getBoundingClientRect(), node.firstChild.getBoundingClientRect()];
        return b.left >= a.left - 1 && b.right <= a.right + 1 && b.top >= a.top - 1 && b.bottom <= a.bottom + 1;
      };
      return [heads.filter((node) => !inside(node)).length, Math.max(...heads.map((n) => n.offsetHeight))];
      """)  # fmt: skip
    assert out == 0
    assert tallest < 260


def test_columns_of_attacks_are_about_equally_wide(driver: Any, page: Path) -> None:
    """Also where a group of one column has a long heading."""
    headless.show(driver, page, 1280, "light")
    widths = js(
        driver, "return [...document.querySelectorAll('#gains .kept th.attack')].map((n) => n.offsetWidth)"
    )
    assert max(widths) < 2.5 * min(widths)


def test_all_numbers_stand_in_a_table_too(driver: Any, page: Path, finished_run: Path) -> None:
    headless.show(driver, page, 1280, "light")
    js(driver, "document.querySelector('#gains details').open = true")
    assert "of" not in texts(driver, "#gains details .count")[0].split(",")[0]
    js(driver, "const more = document.querySelector('#gains details .quiet'); if (!more.hidden) more.click()")
    rows = js(driver, """return [...document.querySelectorAll('#gains details tbody tr')]
      .map((row) => [...row.cells].map((cell) => cell.textContent))""")  # fmt: skip
    assert len(rows) == len(chosen(finished_run)) == 22 * 6
    first = (
        chosen(finished_run).filter(pl.col("arm") == rows[0][0], pl.col("attack") == rows[0][1]).row(0, named=True)
    )
    left, low, high = (f"{100 * first[name]:.1f}" for name in ("retained", "retained_low", "retained_high"))
    assert rows[0][5] == f"{left} % [{low}, {high}]"
    heads = texts(driver, "#gains details th")
    assert heads == [
        "Arm", "Attack", "Reads", "Student", "Gain", "Share left", "Worst case", "Teacher, %", "Teacher drop", "n",
        "Seeds", "Status",
    ]  # fmt: skip
    assert sum(bool(row[6]) for row in rows) == 22
    assert [row[11] for row in rows if row[0] == GAPPY].count("not measured") == 2
