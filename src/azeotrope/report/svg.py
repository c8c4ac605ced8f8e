"""The trade-off plot as a static, self-contained SVG with its own background, light or dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from azeotrope.core.errors import ConfigError, nearest
from azeotrope.report import palette
from azeotrope.report.curve import Cell, Lookup
from azeotrope.report.lines import Line, arms_of, lines_of, undefended
from azeotrope.report.load import Run, load_run
from azeotrope.report.measures import measure

WIDTH, HEIGHT = 960, 460
LEFT, RIGHT, TOP, BOTTOM = 62, 390, 46, 54
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
Looks = Mapping[str, palette.Look]


@dataclass(frozen=True, slots=True)
class Point:
    """One arm in the plane: teacher utility and what the thief gets."""

    x: Cell
    y: Cell


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of `value`."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def tradeoff_svg(run_dir: Path, task: str, metric: str, student: str | None = None) -> str:
    """Return the plot of `metric` (worst case over attacks) against teacher accuracy as an SVG document.

    Without a `student` the highest value over the students is drawn. Raises ConfigError for a name that the
    run does not have.
    """
    run = load_run(Path(run_dir))
    wanted = [("task", task), ("metric", metric)] + ([("student", student)] if student is not None else [])
    for column, name in wanted:
        known = [str(value) for value in run.results[column].unique().drop_nulls() if value]
        if name not in known:
            raise ConfigError(f"The run has no {column} '{name}'.{nearest(name, known)}")
    return plot(run, task, metric, student)


def plot(run: Run, task: str, metric: str, student: str | None = None, utility: str = "teacher_accuracy") -> str:
    """Return the SVG for a run that is already loaded."""
    lookup = Lookup(run.results)
    arms = arms_of(run.results, task)
    none = undefended(arms)
    start = _point(lookup, task, none, metric, utility, student) if none else None
    drawn: list[tuple[Line, list[Point]]] = []
    for line in lines_of(arms):
        found = [_point(lookup, task, arm.arm, metric, utility, student) for arm in line.arms]
        if points := [point for point in found if point]:
            drawn.append((line, points))
    base = lookup.undistilled(task, metric, student)
    everything = [point for _, points in drawn for point in points] + ([start] if start else [])
    x = _scale([_bounds(point.x) for point in everything], LEFT, WIDTH - RIGHT)
    y = _scale([_bounds(p.y) for p in everything] + ([_bounds(base)] if base else []), HEIGHT - BOTTOM, TOP)
    looks = palette.looks(run.results["defense"].to_list())
    center = f'cx="{x(start.x.value)}" cy="{y(start.y.value)}"' if start else ""
    body = [
        _axes(x, y, measure(utility).label, measure(metric).label),
        _references(x, y, start, base),
        *(_line(line, points, start, x, y, looks) for line, points in drawn),
        f'<circle class="start" {center} r="4.5"/>' if start else "",
        _legend([line for line, _ in drawn], bool(start), looks),
    ]
    who = student or "highest over students"
    what = f"{measure(metric).label} ({who}, worst case over attacks)"
    title = f"{what} against {measure(utility).label} on {task}"
    return _document(title, f"{task} · {who} · worst case over attacks", looks, body)


def _point(lookup: Lookup, task: str, arm: str, metric: str, utility: str, student: str | None) -> Point | None:
    x, y = lookup.teacher(task, arm, utility), lookup.worst(task, arm, metric, student)
    return Point(x, y) if x and y else None


def _bounds(cell: Cell) -> tuple[float, float]:
    return (cell.value if cell.low is None else cell.low), (cell.value if cell.high is None else cell.high)


def _scale(spans: Sequence[tuple[float, float]], start: float, end: float) -> Scale:
    low, high = min((s[0] for s in spans), default=0.0), max((s[1] for s in spans), default=1.0)
    pad = 0.04 * (high - low) or 0.05
    return Scale(low - pad, high + pad, start, end)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return round tick values inside [low, high]."""
    steps = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
    step = next((s for s in steps if (high - low) / s <= count), steps[-1])
    first = -(-low // step)
    return [round((first + i) * step, 10) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def _axes(x: Scale, y: Scale, x_name: str, y_name: str) -> str:
    parts, bottom = [], HEIGHT - BOTTOM
    for tick in ticks(x.low, x.high):
        parts.append(f'<path class="grid" d="M{x(tick)},{TOP}V{bottom}"/>')
        parts.append(f'<text x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{_percent(tick)}</text>')
    for tick in ticks(y.low, y.high):
        parts.append(f'<path class="grid" d="M{LEFT},{y(tick)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4}" text-anchor="end">{_percent(tick)}</text>')
    middle, center = (LEFT + WIDTH - RIGHT) / 2, (TOP + bottom) / 2
    across = f'x="{middle}" y="{HEIGHT - 14}"'
    upward = f'transform="translate(18,{center}) rotate(-90)"'
    for place, name in ((across, x_name), (upward, y_name)):
        parts.append(f'<text class="name" {place} text-anchor="middle">{name} (%)</text>')
    return "".join(parts)


def _percent(value: float) -> str:
    return f"{100 * value:g}".replace("-", "−")


def _references(x: Scale, y: Scale, start: Point | None, base: Cell | None) -> str:
    parts = []
    if base:
        low, high = _bounds(base)
        size = f'width="{WIDTH - RIGHT - LEFT}" height="{round(y(low) - y(high), 1)}"'
        parts.append(f'<rect class="band" x="{LEFT}" y="{y(high)}" {size}/>')
        parts.append(f'<path class="reference" d="M{LEFT},{y(base.value)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT + 6}" y="{y(base.value) - 5}">undistilled</text>')
    if start:
        at_x, at_y = x(start.x.value), y(start.y.value)
        route = f"M{LEFT},{at_y}H{WIDTH - RIGHT}M{at_x},{TOP}V{HEIGHT - BOTTOM}"
        parts.append(f'<path class="reference" d="{route}"/>')
        parts.append(f'<text x="{LEFT + 6}" y="{at_y - 5}">undefended</text>')
    return "".join(parts)


def _line(line: Line, points: Sequence[Point], start: Point | None, x: Scale, y: Scale, looks: Looks) -> str:
    name = _class(line.kind)
    path = [start, *points] if start else list(points)
    route = "L".join(f"{x(p.x.value)},{y(p.y.value)}" for p in path)
    parts = [f'<path class="line {name}{" control" if line.is_control else ""}" d="M{route}"/>']
    for p in points:
        (x0, x1), (y0, y1) = _bounds(p.x), _bounds(p.y)
        at_x, at_y = x(p.x.value), y(p.y.value)
        parts.append(f'<path class="bar {name}" d="M{x(x0)},{at_y}H{x(x1)}M{at_x},{y(y0)}V{y(y1)}"/>')
        parts.append(_mark(line, looks, at_x, at_y))
    return "<g>" + "".join(parts) + "</g>"


def _legend(lines: Sequence[Line], with_start: bool, looks: Looks) -> str:
    parts, left, top = [], WIDTH - RIGHT + 18, TOP + 8
    for index, line in enumerate(lines):
        y = top + 24 * index
        name = _class(line.kind) + (" control" if line.is_control else "")
        label = escape(line.label if len(line.label) <= 48 else line.label[:47] + "…")
        parts.append(f'<path class="line {name}" d="M{left},{y}h26"/>')
        parts.append(_mark(line, looks, left + 13, y))
        parts.append(f'<text x="{left + 34}" y="{y + 4}">{label}</text>')
    note = top + 24 * len(lines) + 6
    parts.append(f'<text class="small" x="{left}" y="{note}">dashed: control</text>')
    if with_start:
        parts.append(f'<text class="small" x="{left}" y="{note + 18}">lower right is better</text>')
    return "".join(parts)


def _mark(line: Line, looks: Looks, x: float, y: float) -> str:
    shape = palette.marker_path(palette.marker(looks[line.kind], line.variant), 4.5)
    return f'<path class="mark {_class(line.kind)}" transform="translate({x},{y})" d="{shape}"/>'


def _class(kind: str) -> str:
    return "k-" + "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in kind)


def _style(looks: Looks) -> str:
    themes = []
    for theme in (0, 1):
        rules = [
            f".bg{{fill:{palette.BACKGROUND[theme]};stroke:{palette.RULE[theme]}}}",
            f"text{{fill:{palette.MUTED[theme]}}}.name,.title{{fill:{palette.INK[theme]}}}",
            f".grid{{stroke:{palette.RULE[theme]}}}.reference{{stroke:{palette.MUTED[theme]}}}",
            f".start{{fill:{palette.BACKGROUND[theme]};stroke:{palette.INK[theme]}}}",
            f".band{{fill:{palette.MUTED[theme]}}}.mark{{stroke:{palette.BACKGROUND[theme]}}}",
        ]
        for kind, look in looks.items():
            color = look.dark if theme else look.light
            name = _class(kind)
            rules.append(f".line.{name},.bar.{name}{{stroke:{color}}}.mark.{name}{{fill:{color}}}")
        themes.append("".join(rules))
    return (
        f"text{{font:12px {FONT}}}.title{{font-size:14px;font-weight:600}}.small{{font-size:11px}}"
        ".start{stroke-width:2}.line{fill:none;stroke-width:2}.control{stroke-dasharray:6 4}"
        ".bar{fill:none;stroke-width:1;opacity:.45}"
        ".grid{fill:none;stroke-width:1}.reference{fill:none;stroke-dasharray:1 4;stroke-linecap:round}"
        f".band{{opacity:.14}}{themes[0]}@media(prefers-color-scheme:dark){{{themes[1]}}}"
    )


def _document(title: str, heading: str, looks: Looks, body: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f"<style>{_style(looks)}</style>"
        f'<rect class="bg" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>'
        f'<text class="title" x="{LEFT}" y="28">{escape(heading)}</text>{"".join(body)}</svg>'
    )
