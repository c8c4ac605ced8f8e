r"""Grading of free-form answers: mathematics by math-verify, multiple choice by letter. No torch.

What a completion answers is, in this order: the last complete ``\boxed{...}`` (first of the answer span,
then of the whole text), else what follows the last ``####`` or "answer is". An answer is right if it is the
same string, the same plain number (units and thousands separators aside), or equal to math-verify.

math-verify's own timeouts are signals, which do not exist outside the main thread and cannot interrupt one
long C call such as 9**9**9. It therefore runs in a helper process that is killed when it takes too long or
too much memory: hostile text costs seconds, is graded wrong, and never raises.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from string import ascii_uppercase
from threading import Event, Lock, Timer

from azeotrope.core.errors import MissingError, RunError
from azeotrope.core.types import THINK_CLOSE, split_answer
from azeotrope.tasks.base import Grade

FORCED_HEADER = "\n\n**Final Answer**\n\\[\\boxed{"
MAX_ANSWER = 1000  # characters; anything longer is only compared as a string

_STEP_S = 3  # for math-verify's own timeouts, in the helper
_LIMIT_S = 10.0  # after which the helper is killed
_START_S = 120.0
_MEMORY_BYTES = 3 << 30

_TOKEN = re.compile(
    r"(?P<box>\\{1,3}(?:boxed|fbox)\s{0,8}\{)|\\{1,3}boxed\s{1,4}(?P<bare>[^\s$\\{}]{1,40})|\\.|[{}]",
    re.DOTALL,
)
_LEAD = re.compile(r"####|\banswer\b(?:\s{1,4}is\b|\*{0,2}\s{0,4}[:=])", re.IGNORECASE)
_CUT = re.compile(r"[.;!?](?:\s|$)|,\s+[A-Za-z]{2}|\s(?:because|since)\b")
_WRAPPED = re.compile(r"\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|\*\*(.+?)\*\*")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|rm)\s?\{([^{}]*)\}")
_SPACES = re.compile(r"\\[,;:! ]|~|\{\}|\\(?:left|right|displaystyle)(?![A-Za-z])")
_LOOSE_SPACE = re.compile(r"(?<!\d) | (?!\d)")  # not the one in 1 1/2
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s?(?P<whole>\d{1,3}(?:,\d{3})+|\d*)(?P<part>\.\d+)?\.?"
    r"(?P<unit>(?:\s?[A-Za-z]{2,20}\.?(?:\^?\{?\d\}?)?(?:\s?/\s?[A-Za-z]{1,20}(?:\^?\{?\d\}?)?)?(?=\s|$)){0,6})\s*"
)
# Words after a number that change its value, so that it is not a number with a unit.
_NOT_UNITS = frozenset(
    "hundred thousand million billion trillion dozen half halves third thirds quarter quarters percent pi "
    "sqrt times plus minus squared cubed less more or and not over mod divided by to".split()
)


def force_answer(text: str) -> str:
    """Return `text` closed and extended so that the model that continues it must state an answer."""
    closed = text if THINK_CLOSE in text else f"{text}\n{THINK_CLOSE}"
    return closed + FORCED_HEADER


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last complete ``\boxed{...}`` (or of ``\boxed 5``); None without one.

    Linear in the length of the text.

    >>> last_boxed(r"\boxed{1}, no: \boxed{\frac{1}{2}} or \boxed{3")
    '\\frac{1}{2}'
    """
    found: tuple[int, int] | None = None
    open_braces: list[int] = []  # where the content of each open box starts, -1 for other braces
    for token in _TOKEN.finditer(text) if "box" in text else ():
        if token["box"]:
            open_braces.append(token.end())
        elif token["bare"]:
            found = token.span("bare")
        elif token[0] == "{":
            open_braces.append(-1)
        elif token[0] == "}" and open_braces:
            start = open_braces.pop()
            if start >= 0 and not (found and found[0] > start):  # a box around a box is only a frame
                found = start, token.start()
    return text[slice(*found)] if found else None


def extract_answer(text: str) -> str | None:
    """Return what a completion gives as its final answer, or None."""
    for part in (split_answer(text)[1], text):
        box = last_boxed(part)
        if box is not None and box.strip():
            return box.strip()
    for part in (split_answer(text)[1], text):
        stated = _stated(part)
        if stated:
            return stated
    return None


def same_answer(gold: str, answer: str) -> bool:
    """Whether `answer` equals `gold`. Never raises on content; MissingError without math-verify."""
    gold, answer = _tidy(gold), _tidy(answer)
    if _LOOSE_SPACE.sub("", gold) == _LOOSE_SPACE.sub("", answer):
        return bool(gold)
    if not gold or not answer or max(len(gold), len(answer)) > MAX_ANSWER:
        return False
    numbers = plain_number(gold), plain_number(answer)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return _verified(gold, answer)


def grade_math(gold: str, text: str) -> Grade:
    """Grade a completion; one that was forced to answer is right if it was before or after the forcing."""
    answers = [answer for answer in map(extract_answer, _readings(text)) if answer is not None]
    for answer in answers:
        if same_answer(gold, answer):
            return Grade(correct=True, answer=answer)
    return Grade(correct=False, answer=answers[0] if answers else None)


def plain_number(text: str) -> Fraction | None:
    r"""Return the value of a decimal number that may carry separators, a currency or a unit, else None.

    >>> plain_number(r"\$1,250.50"), plain_number(r"18\text{ cm}^2"), plain_number("3 dozen")
    (Fraction(2501, 2), Fraction(18, 1), None)
    """
    if len(text) > 200:
        return None
    plain = _TEXT.sub(r" \1", _tidy(text)).replace("^{\\circ}", "").replace("^\\circ", "").replace("°", "")
    match = _NUMBER.fullmatch(plain.replace("$", "").replace("\\", "").strip())
    if match is None or not (match["whole"] or match["part"]):
        return None
    if _NOT_UNITS.intersection(re.findall(r"[a-z]+", match["unit"].lower())):
        return None
    value = Fraction((match["whole"] or "0").replace(",", "") + (match["part"] or ""))
    return -value if match["sign"] == "-" else value


def extract_choice(text: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the option that a completion chooses, or None.

    A letter counts in a box, after "answer is", or alone on the last line; a box may also hold the option's
    text.
    """
    answer_span = split_answer(text)[1]
    for part in (answer_span, text):
        box = last_boxed(part)
        if box is not None and box.strip():
            return _boxed_letter(box, choices)
    for part in (answer_span, text):
        for lead in reversed(list(_LEAD.finditer(part))):
            letter = _leading_letter(part[lead.end() : lead.end() + 80], len(choices))
            if letter:
                return letter
    lines = text.strip()[-80:].splitlines()
    alone = re.fullmatch(r"[\W_]*([A-Z])[\W_]*", lines[-1]) if lines else None
    return alone[1] if alone and alone[1] in ascii_uppercase[: len(choices)] else None


def grade_choice(gold: str, text: str, choices: Sequence[str]) -> Grade:
    """Grade a multiple-choice completion against the letter `gold`."""
    letters = [letter for part in _readings(text) if (letter := extract_choice(part, choices)) is not None]
    if gold in letters:
        return Grade(correct=True, answer=gold)
    return Grade(correct=False, answer=letters[0] if letters else None)


def _readings(text: str) -> Iterator[str]:
    yield text
    cut = text.rfind(FORCED_HEADER)
    if cut >= 0:
        yield text[:cut]


def _stated(text: str) -> str | None:
    """What follows the last lead ("####", "answer is") that anything follows, to its sentence's end."""
    for lead in reversed(list(_LEAD.finditer(text))):
        tail = text[lead.end() : lead.end() + 300].lstrip(" \t\n:*_")
        line = tail.split("\n", 1)[0]
        wrapped = _WRAPPED.match(line)
        if wrapped:
            return next(group for group in wrapped.groups() if group).strip()
        cut = _CUT.search(line)
        stated = (line[: cut.start()] if cut else line).strip(" \t*_\"'`")
        if stated:
            return stated
    return None


def _tidy(text: str) -> str:
    """Remove what never changes an answer: math delimiters, thin spaces, a final full stop."""
    text = text.strip().removeprefix("\\(").removesuffix("\\)").removeprefix("\\[").removesuffix("\\]")
    text = re.sub(r"(?<!\\)\$", "", text)
    text = text.replace("{,}", ",").replace(",\\!", ",").replace("\u2212", "-")
    text = re.sub(r"(\d)\\[,;: !](?=\d{3}(?!\d))", r"\1", text)
    text = _SPACES.sub(" ", text).replace("dfrac", "frac").replace("tfrac", "frac")
    text = re.sub(r"(?<=\d)\s+percent\b", r"\\%", text)
    return " ".join(text.split()).removesuffix(".")


def _boxed_letter(box: str, choices: Sequence[str]) -> str | None:
    letters = ascii_uppercase[: len(choices)]
    plain = " ".join(_TEXT.sub(r"\1", _TEXT.sub(r"\1", box[:MAX_ANSWER])).replace("$", "").split())
    plain = re.sub(r"(?i)^(?:option|choice|answer)\s?:?\s", "", plain)
    match = re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", plain) or re.match(r"\(?([A-Z])(?:[.:)]|\)\.)\s?\S", plain)
    if match:
        return match[1].upper() if match[1].upper() in letters else None
    same = [letter for letter, choice in zip(letters, choices, strict=True) if _fold(choice) == _fold(plain)]
    return same[0] if len(same) == 1 else None


def _leading_letter(tail: str, n: int) -> str | None:
    tail = _TEXT.sub(r"\1", tail).replace("$", "").lstrip(" \t\n:*_")
    tail = re.sub(r"(?i)^(?:option|choice)\s", "", tail)
    match = re.match(r"\(([A-Za-z])\)|([B-Z])(?![A-Za-z'])|(A)(?![A-Za-z']|\s[a-z])", tail)
    if match is None:
        return None
    letter = (match[1] or match[2] or match[3]).upper()
    return letter if letter in ascii_uppercase[:n] else None


def _fold(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


class _Helper:
    """A process that runs math-verify, started on first use and again after it had to be killed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None

    def verify(self, gold: str, answer: str) -> bool:
        """Ask the helper; a crash that was not a timeout is tried once more on a fresh process."""
        request = json.dumps([gold, answer]) + "\n"
        with self._lock:
            for _ in range(2):
                process = self._process or self._start()
                reply, expired = _exchange(process, request, _LIMIT_S)
                if reply:
                    return reply == "1\n"
                self._stop()
                if expired:
                    break
        return False

    def _start(self) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-c", "from azeotrope.tasks.grading import _serve; _serve()"]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, text=True, env=environment)
        self._process = process
        if _exchange(process, "", _START_S)[0] != "ready\n":
            self._stop()
            raise RunError(
                "The process that checks maths answers did not start; "
                "see what `python -c 'import math_verify'` says in this environment."
            )
        return process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        process.wait()

    def close(self) -> None:
        """End the helper process."""
        self._stop()


def _exchange(process: subprocess.Popen[str], request: str, limit_s: float) -> tuple[str, bool]:
    """Send a request, read one line; return it ("" if the process died) and whether the time was up."""
    expired = Event()

    def expire() -> None:
        expired.set()
        process.kill()

    timer = Timer(limit_s, expire)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        process.stdin.flush()
        return process.stdout.readline(), expired.is_set()
    except (OSError, ValueError):
        return "", expired.is_set()
    finally:
        timer.cancel()


_helper = _Helper()


def _after_fork() -> None:
    """A forked child must not talk to its parent's helper."""
    global _helper
    _helper = _Helper()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: _helper.close())


@lru_cache(maxsize=4096)
def _verified(gold: str, answer: str) -> bool:
    if find_spec("math_verify") is None:
        raise MissingError(
            "Grading maths answers needs the package 'math-verify', which is not installed; "
            "run: pip install 'azeotrope[lab]'."
        )
    return _helper.verify(gold, answer)


def _serve() -> None:
    """The helper's loop: one JSON pair a line in, 1 or 0 a line out, until the input closes."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints must not look like a reply
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    import math_verify

    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        print(int(_math_verify(math_verify, gold, answer)), file=replies, flush=True)


def _math_verify(library: object, gold: str, answer: str) -> bool:
    """Parse and compare in the helper's main thread, where math-verify's timeouts work."""
    try:
        parse, verify = library.parse, library.verify  # type: ignore[attr-defined]
        parsed = [parse(f"${text}$", parsing_timeout=_STEP_S) for text in (gold, answer)]
        return all(parsed) and bool(verify(*parsed, timeout_seconds=_STEP_S))
    except BaseException as error:  # math-verify's own TimeoutException is not an Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return False
