"""The door: run a command, turn every outcome into an exit code and every failure into one line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import typer

from azeotrope.core.errors import AzeotropeError, MissingError, RunError

PROGRAM = "azeotrope"
TRACEBACK = "--traceback"
INTERRUPTED = 130
LAB = frozenset("torch transformers tokenizers safetensors scipy sklearn peft accelerate math_verify".split())
GATEWAY = frozenset("aiohttp cryptography granian msgspec prometheus_client sqlalchemy".split())
EXTRAS = {
    **dict.fromkeys(LAB, "lab"),
    **dict.fromkeys(GATEWAY, "gateway"),
    **dict.fromkeys(("psycopg", "redis"), "shared"),
    "reasoning_gym": "procedural",
    "datasets": "hub",
}
_USAGE_ERROR: type[BaseException] = typer.BadParameter.__mro__[1]  # whichever click typer brings along


def main() -> None:
    """Run the console script; always ends in SystemExit."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # an ASCII terminal gets escapes, not a crash
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(call(sys.argv[1:]))


def call(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code (see `azeotrope.core.errors`)."""
    shown = TRACEBACK in arguments
    try:
        code = _dispatch([word for word in arguments if word != TRACEBACK])
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        _give_up_stdout()
        return 1
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except Exception as error:
        if shown:
            traceback.print_exc()
        message, code = sentence(error)
        complain(message)
        if isinstance(error, OSError):
            _give_up_stdout()
        return code
    if code == INTERRUPTED:
        complain("Interrupted.")
    return code


def sentence(error: Exception) -> tuple[str, int]:
    """Return what to tell the user about an exception, and the exit code."""
    if isinstance(error, AzeotropeError):
        return str(error), error.exit_code
    if isinstance(error, _USAGE_ERROR):
        return _usage(error), 2
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").partition(".")[0])):
        return (
            f"This command needs the package '{error.name}', which is not installed; "
            f"run: pip install 'azeotrope[{extra}]'."
        ), MissingError.exit_code
    if isinstance(error, MemoryError):
        return "Memory ran out; use fewer workers or a smaller --n.", RunError.exit_code
    if isinstance(error, OSError) and error.errno:
        where = f": '{error.filename}'" if error.filename else ""
        return f"{error.strerror}{where}; add {TRACEBACK} to see where.", RunError.exit_code
    first = (str(error).strip().splitlines() or [""])[0]
    return (
        f"Unexpected {type(error).__name__}: {first} (a bug, please report it; add {TRACEBACK} to see where)."
    ), 1


def complain(message: str) -> None:
    """Print one line to stderr (nothing for an empty message: the help was shown instead)."""
    if message:
        print(f"{PROGRAM}: {message}", file=sys.stderr)


def _give_up_stdout() -> None:
    """Send what is still buffered nowhere if it cannot be written, so that leaving raises nothing more."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str]) -> int:
    from azeotrope.cli.app import app

    outcome: Any = typer.main.get_command(app).main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    return outcome if isinstance(outcome, int) else 0


def _usage(error: Any) -> str:
    """One sentence for a wrong command line, with a pointer to the right help."""
    context = getattr(error, "ctx", None)
    path = str(context.command_path) if context is not None else PROGRAM
    message = str(error.format_message()).strip().replace("\n", " ")
    if not message:
        return ""
    if not message.endswith((".", "?", "!", ")")):
        message += "."
    return f"{message} See: {path} --help"
