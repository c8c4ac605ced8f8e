"""One color, marker and dash per defense, the same in the page and in the README plot.

The six built-in colors keep an OKLab distance of at least 0.1 from each other in normal, protanopic and
deuteranopic vision and a contrast of at least 3.7:1 with the background, in both themes. A defense is never
told apart by color alone: markers differ, and controls are dashed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BACKGROUND = ("#fdfcfa", "#14161a")
INK = ("#1c1e21", "#e8e6e1")
MUTED = ("#5c6066", "#a3a7ae")
RULE = ("#dedbd4", "#33373d")

MARKERS = ("circle", "square", "triangle", "diamond", "cross", "wye")


@dataclass(frozen=True, slots=True)
class Look:
    """How a defense is drawn: color on light and on dark, and the marker of its first variant."""

    light: str
    dark: str
    marker: str


_BUILT_IN = {
    "none": Look(*INK, "circle"),
    "ads": Look("#a3260f", "#f07a2b", "circle"),
    "traceguard": Look("#1778b0", "#5f8ae6", "square"),
    "temperature": Look("#55585e", "#d2d5db", "triangle"),
    "permutation": Look("#5e276c", "#dd9fed", "diamond"),
    "gaussian": Look("#8c7b00", "#eacc81", "cross"),
    "random_sentences": Look("#3d8f78", "#5ca786", "wye"),
}
_SPARE = (
    Look("#b0124f", "#ff7ea6", "diamond"),
    Look("#5146b8", "#a9a5ff", "wye"),
    Look("#566500", "#b6c94c", "triangle"),
    Look("#7a4b12", "#c99b66", "square"),
    Look("#00717d", "#4fc6d4", "cross"),
)


def looks(kinds: Iterable[str]) -> dict[str, Look]:
    """Return the look of every kind; kinds from outside the package share the spare colors in turn."""
    names = sorted(set(kinds))
    foreign = [name for name in names if name not in _BUILT_IN]
    spare = {name: _SPARE[index % len(_SPARE)] for index, name in enumerate(foreign)}
    return {name: _BUILT_IN.get(name) or spare[name] for name in names}


def marker(look: Look, variant: int) -> str:
    """Return the marker of the `variant`-th line of a defense."""
    return MARKERS[(MARKERS.index(look.marker) + variant) % len(MARKERS)]


def marker_path(name: str, radius: float) -> str:
    """Return the SVG path of a marker centered at the origin."""
    r, s = radius, 0.9 * radius
    paths = {
        "circle": f"M{r:g},0A{r:g},{r:g},0,1,1,{-r:g},0A{r:g},{r:g},0,1,1,{r:g},0Z",
        "square": _polygon([(-s, -s), (s, -s), (s, s), (-s, s)]),
        "triangle": _polygon([(0, -1.2 * r), (1.1 * r, 0.8 * r), (-1.1 * r, 0.8 * r)]),
        "diamond": _polygon([(0, -1.3 * r), (1.1 * r, 0), (0, 1.3 * r), (-1.1 * r, 0)]),
        "wye": _polygon([(0, 1.2 * r), (1.1 * r, -0.8 * r), (-1.1 * r, -0.8 * r)]),
        "cross": _plus(r),
    }
    return paths[name]


def _polygon(corners: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{round(x, 2):g},{round(y, 2):g}" for x, y in corners) + "Z"


def _plus(r: float) -> str:
    a, b = 0.38 * r, 1.15 * r
    return _polygon([
        (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a),
        (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a),
    ])  # fmt: skip


def css(kinds: Iterable[str]) -> str:
    """Return the custom properties of the palette, resolved by the page's color scheme."""
    pairs = {"bg": BACKGROUND, "ink": INK, "muted": MUTED, "rule": RULE}
    lines = [f"  --{name}: light-dark({light}, {dark});" for name, (light, dark) in pairs.items()]
    lines += [
        f"  --kind-{index}: light-dark({look.light}, {look.dark});"
        for index, look in enumerate(looks(kinds).values())
    ]
    return ":root {\n" + "\n".join(lines) + "\n}\n"
