"""Sentences of a reasoning trace, as segments that tile the text exactly.

Made for the output of reasoning models: mathematics and code are never cut, a blank line always ends a
sentence, and `<think>` and `</think>` are segments of their own. Each segment owns the white space after it,
so deleting a sentence means dropping a segment, and ``"".join(segment(text)) == text`` for every string. What
counts as a boundary is written down in ``tests/data/SEGMENT_CONVENTIONS.md``.

One compiled expression finds the candidates (final punctuation before white space, newlines, openers of
mathematics and code, think tags); a few character look-ups decide each. Every repeat in it is bounded and
every search for a closing delimiter is capped and never repeated, so time is linear in the text, whatever the
text. The streaming form runs the same scan and holds a candidate back until enough text has arrived to decide
it, so its segments do not depend on how the text was cut.

Limits: the rules are for English and for scripts that put white space after a sentence.
"""

from __future__ import annotations

import re
from typing import Final

LOOK_AHEAD: Final = 24  # characters beyond a candidate (and its white space) that its decision may read
MAX_SEGMENT: Final = 4096  # a sentence with no end is cut here, which bounds a stream's memory
INLINE_CAP: Final = 400  # longest inline formula; an opener without a closer in reach is ordinary text
DISPLAY_CAP: Final = 2000  # longest display or environment
FENCE_CAP: Final = 4096  # longest fenced code block

_CANDIDATE: Final = re.compile(
    r"[.?!…\n\\$<`](?:"
    r"(?<=[.?!…])[)\]}\"'”’»*_]{0,4}\s{1,4096}"  # final punctuation, closers, white space
    r"|(?<=\n)\s{0,4096}"
    r"|(?<=\\)(?:[(\[]|begin\{)"
    r"|(?<=\$)"
    r"|(?<=<)/?think>"
    r"|(?<=`)``)"
)
_SPACE: Final = re.compile(r"\s{0,4096}")
# What ends a span or shows that it was never one: a blank line (any newline for `$`), or a think tag.
_CLOSERS: Final = {
    "(": re.compile(r"\\\)|\n[ \t]{0,8}\n|</?think>"),
    "[": re.compile(r"\\\]|\n[ \t]{0,8}\n|</?think>"),
    "$$": re.compile(r"\$\$|\n[ \t]{0,8}\n|</?think>"),
    "$": re.compile(r"\$|\n|</?think>"),
    "`": re.compile(r"```|</?think>"),
    "b": re.compile(r"\\end\{([a-zA-Z]{1,16}\*?)\}|</?think>"),
}
_LONGEST_CLOSER: Final = 12  # no match of the first five is longer
_CAPS: Final = {"(": INLINE_CAP, "$": INLINE_CAP, "`": FENCE_CAP}
_ENVIRONMENT: Final = re.compile(r"\\begin\{([a-zA-Z]{1,16}\*?)\}")

# "1.", "**2.", "(a)", "Step 3.": a label at the start of a sentence, which belongs to what it introduces.
_LABEL: Final = re.compile(
    r"[\s*#>_(\-]{0,8}(?:(?:step|case|part|option|example|rule|question|problem|method|equation|trip) )?"
    r"(?:\d{1,3}|[a-z]|[ivx]{2,4})",
    re.IGNORECASE,
)
_LABEL_MAX: Final = 24
_CONTINUES: Final = re.compile(r"(?:[a-z]{2,16}|a)[ ,;:'’]")  # a lower-case word that carries a sentence on
_VARIABLE: Final = re.compile(r"[a-z][²³₀-₉]?\s?[=<>≈≤≥]")  # "n = 3": a sentence that starts with a variable
_RELATION: Final = frozenset("=≈≤≥≠≡")
_NEVER_FIRST: Final = _RELATION | frozenset("+/|,;:)%^×·→<>")

_WORDS: Final = re.compile(r"\S+").findall
_NEVER: Final = frozenset(
    _WORDS("e.g i.e E.g I.e vs cf Mr Mrs Ms Dr Prof St approx resp viz al w.r.t U.S U.K Ph.D D.C i.i.d")
)
_BEFORE_NUMBER: Final = frozenset(_WORDS("No no Nos Fig Figs fig Eq Eqs eq Sec Ch Vol pp Thm Prop Def"))
_NEEDS_CAPITAL: Final = frozenset(
    _WORDS("etc a.m p.m Inc Ltd Jr Sr Co ft in min sec hr hrs sq lb oz yd mi cm mm km")
)
_TAILS: Final = frozenset(word[-2:] for word in _NEVER | _BEFORE_NUMBER | _NEEDS_CAPITAL)


def segment(text: str) -> list[str]:
    """Split `text` into sentences; ``"".join(segment(text)) == text``, no segment is empty."""
    start, parts = 0, []
    for end in boundaries(text):
        parts.append(text[start:end])
        start = end
    return parts


def boundaries(text: str) -> list[int]:
    """Return the end offset of every sentence of `text`, ascending; the last is ``len(text)``."""
    found: list[int] = []
    start, _ = _scan(text, 0, 0, True, found)
    if start < len(text):
        found.append(len(text))
    return found


class Segmenter:
    """The streaming form of `segment`: the same segments for every way of cutting the input.

    A sentence is released once its trailing white space and up to `LOOK_AHEAD` further characters have
    arrived; inside an open formula or code block it waits for the closing delimiter, a line that rules it
    out, or the cap. At most a few times `MAX_SEGMENT` characters are held.
    """

    def __init__(self) -> None:
        self._buffer = ""
        self._resume = 0  # everything before this offset in the buffer has been decided

    def feed(self, chunk: str) -> list[str]:
        """Take more text; return the sentences that are now certain (often none)."""
        self._buffer += chunk
        return self._drain(final=False)

    def close(self) -> list[str]:
        """Declare the text finished; return what was held back. The segmenter can then be used again."""
        parts = self._drain(final=True)
        if self._buffer:
            parts.append(self._buffer)
        self._buffer, self._resume = "", 0
        return parts

    @property
    def settled(self) -> str:
        """The part of the open sentence that has arrived and is certain to belong to it."""
        return self._buffer[: self._resume]

    @property
    def held(self) -> int:
        """How many characters are waiting for a decision."""
        return len(self._buffer)

    def _drain(self, final: bool) -> list[str]:
        ends: list[int] = []
        start, resume = _scan(self._buffer, 0, self._resume, final, ends)
        parts, last = [], 0
        for end in ends:
            parts.append(self._buffer[last:end])
            last = end
        if start:
            self._buffer = self._buffer[start:]
        self._resume = resume - start
        return parts


def _scan(text: str, start: int, at: int, final: bool, ends: list[int]) -> tuple[int, int]:
    """Append to `ends` every boundary in `text` that is certain, from offset `at` on.

    `start` is where the current sentence starts. Returns the start of the sentence that is still open and
    the offset at which to go on when more text has arrived. Nothing before `start` is ever read, and nothing
    that could change with more text is decided unless `final`: this is what makes chunking irrelevant.
    """
    size = len(text)
    known = size if final else size - LOOK_AHEAD
    search, append = _CANDIDATE.search, ends.append
    clear: dict[str, int] = {}
    while (match := search(text, at)) is not None:
        here, end = match.span()
        if end > known or here >= known:
            at = max(at, min(here, known))
            break
        while here - start >= MAX_SEGMENT:
            start += MAX_SEGMENT
            append(start)
        sign = text[here]
        if sign == "." or sign in "?!…":
            if end < size and _ends_sentence(text, start, here, end):
                append(end)
                start = end
            at = end
        elif sign == "\n":
            if end < size and _line_ends_sentence(text, start, here, end):
                append(end)
                start = end
            at = end
        elif sign == "<":
            end = _after_space(text, end)
            if end > known:
                at = here
                break
            for offset in (here, end):
                if start < offset < size and not _blank(text, start, offset):
                    append(offset)
                    start = offset
            at = end
        else:
            close = _span_end(text, here, end, final, clear)
            after = _after_space(text, close) if close > end + 1 else close
            if close < 0 or after > known:
                at = here
                break
            at = close
            if after > close and _span_ends_sentence(text, here, close, after):
                append(after)
                start = at = after
    else:
        at = max(at, known)
    while at - start >= MAX_SEGMENT:
        start += MAX_SEGMENT
        append(start)
    return start, at


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _blank(text: str, start: int, end: int) -> bool:
    """Whether the segment so far is only white space (which happens at the start of a text alone)."""
    return start == end or (text[start].isspace() and text[start:end].isspace())


def _ends_sentence(text: str, start: int, here: int, end: int) -> bool:
    """Decide final punctuation at `here` that is followed by closers and white space up to `end`."""
    following = text[end]
    newlines = text.count("\n", here, end)
    if newlines:
        if newlines > 1:
            return True
        return following not in _RELATION and not (text[here] == "." and _is_number_label(text, start, here))
    if here - start <= _LABEL_MAX and text[here] == "." and _LABEL.fullmatch(text, start, here):
        return False
    capital = following.isupper()
    before = text[here - 1] if here > start else ""
    if text[here] == ".":
        if before == ".":
            return capital and not _in_enumeration(text, start, here)
        if not before or before.isspace():
            return False  # ". . ."
        if before.isalpha() and not _word_allows(text, start, here, end):
            return False
    elif text[here] == "!":
        if not capital and _is_factorial(text, start, here):
            return False
    elif text[here] == "…" and not capital:
        return False
    if capital:
        return True
    if following.islower():
        if text[here] == ".":
            return text[here + 1].isspace()  # not after a closing quote or bracket
        return text[here] == "?" and _VARIABLE.match(text, end) is not None
    return following not in _NEVER_FIRST


def _is_number_label(text: str, start: int, here: int) -> bool:
    return here - start <= _LABEL_MAX and text[start:here].strip(" \t\n*#").isdigit()


def _in_enumeration(text: str, start: int, here: int) -> bool:
    """Whether an ellipsis stands between terms, as in ``a, b, ... Z`` or ``1 + ... N``."""
    lead = text[max(start, here - 6) : here].rstrip(". \t")
    return lead[-1:] in {",", "+", "*", "<", "×"}


def _is_factorial(text: str, start: int, here: int) -> bool:
    before = text[max(start, here - 2) : here]
    if before[-1:].isalpha():
        return not before[:-1].isalpha()  # "n!", but not "Great!"
    return before[-1:].isdigit() or before[-1:] in {")", "!"}


def _word_allows(text: str, start: int, here: int, end: int) -> bool:
    """Whether the word before the full stop at `here` is one after which a sentence may end."""
    tail = text[max(start, here - 2) : here]
    if tail in _TAILS:
        word = text[max(start, here - 8) : here].split()[-1].lstrip("([{\"'*“‘")
        if word in _NEVER:
            return False
        if word in _BEFORE_NUMBER:
            return not text[end].isdigit()
        if word in _NEEDS_CAPITAL:
            return text[end].isupper()
    if tail[-1].isupper() and not tail[:-1].isalpha():  # an initial beside another?
        if text[end].isupper() and text[end + 1 : end + 2] == ".":
            return False
        lead = text[max(start, here - 4) : here - 1]
        return not (len(lead) == 3 and lead.endswith(". ") and lead[0].isupper())
    return True


def _line_ends_sentence(text: str, start: int, here: int, end: int) -> bool:
    """Decide a newline at `here` (white space up to `end`) that final punctuation does not precede."""
    if _blank(text, start, here):
        return False
    if text.count("\n", here, end) > 1:
        return True
    if text[end] in _RELATION:
        return False
    if not text[end].islower():
        return not _is_number_label(text, start, here)
    if text[max(start, here - 8) : here].rstrip(" \t*_").endswith(":"):
        return True
    return _CONTINUES.match(text, end) is None


def _span_end(text: str, here: int, opened: int, final: bool, clear: dict[str, int]) -> int:
    r"""Return where the formula or code opened at `here` ends; at most `opened` + 1 if it is not one; -1 if
    that depends on text that has not arrived.

    `opened` is the offset just after the opening delimiter that the scan matched (``\(``, ``\[``, ``$`` ...).
    `clear` remembers, per kind, up to where there is no closer, so that no stretch is searched twice.
    """
    kind = text[opened - 1] if text[here] == "\\" else text[here]
    size = len(text)
    if kind == "{":
        return _environment_end(text, here, opened, final)
    if kind == "$":
        if text[here + 1 : here + 2] == "$":
            kind, opened = "$$", here + 2
        elif text[here + 1 : here + 2] in {"\n", ""}:
            return opened
    limit = opened + _CAPS.get(kind, DISPLAY_CAP)
    match = _CLOSERS[kind].search(text, max(opened, clear.get(kind, 0)), limit)
    if match is None:
        clear[kind] = min(limit, size) - _LONGEST_CLOSER
        return opened if final or limit <= size else -1
    if not final and match.end() + 2 > size:
        return -1  # whether `$` closes depends on the next character
    found = match.group()
    clear[kind] = match.start()
    if found[0] not in "\\$`" or (kind == "$" and not _closes_dollar(text, here, match.start())):
        return opened
    return match.end()


def _environment_end(text: str, here: int, opened: int, final: bool) -> int:
    """The same for an opening ``begin`` of an environment, whose ``end`` must carry the same name."""
    limit, size = opened + DISPLAY_CAP, len(text)
    name = _ENVIRONMENT.match(text, here)
    if name is None:
        return opened if final or opened + LOOK_AHEAD <= size else -1
    at = opened
    while (match := _CLOSERS["b"].search(text, at, limit)) is not None:
        if match.group(1) == name.group(1):
            return match.end()
        if match.group(1) is None:  # a think tag: the environment was never closed
            return opened
        at = match.end()
    return opened if final or limit <= size else -1


def _closes_dollar(text: str, opened: int, close: int) -> bool:
    """Whether `$` at `close` can end a formula opened at `opened`, or both are amounts of money.

    ``$x$`` and ``$ x $`` are formulas; in ``$5 and $6`` and ``$40/$50`` the second sign opens an amount.
    """
    if close == opened + 1 or text[close + 1 : close + 2].isdigit():
        return False
    return text[opened + 1].isspace() == text[close - 1].isspace()


def _span_ends_sentence(text: str, here: int, close: int, after: int) -> bool:
    """Whether a sentence starts at `after`, on the line of a formula or code block that ends at `close`.

    A display or fenced block ends a sentence when a capital letter follows; an inline formula only when
    its last character is final punctuation, as in ``$x = 5.$ Then``.
    """
    if after >= len(text) or not text[after].isupper() or "\n" in text[close:after]:
        return False
    if text[here : here + 2] in {"\\[", "$$", "``", "\\b"}:
        return True
    inner = text[here:close].removesuffix("$").removesuffix("\\)").rstrip()
    return inner[-1:] in {".", "?", "!"}
