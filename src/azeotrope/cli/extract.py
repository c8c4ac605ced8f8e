"""`extract`: logits and the hidden size of a model behind an endpoint, and what getting them took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from azeotrope.cli.out import AsJson, emit, show
from azeotrope.core.errors import ConfigError, MissingError, RunError
from azeotrope.core.seeds import derive
from azeotrope.core.types import Problem

METHODS = ("auto", "shared", "single", "sampled", "argmax")
SUFFIXES = (".txt", ".jsonl")


def extract(
    endpoint: Annotated[
        str,
        typer.Argument(
            metavar="ENDPOINT",
            show_default=False,
            help="https://host/v1#model with its options (docs/endpoint.md); api=completions if not said.",
        ),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="The model's public tokenizer: embedded/NAME, a folder, or a hub name."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File to write: .safetensors.")],
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts: .txt, one a line, or .jsonl with `prompt`.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="KIND[:NAME=VALUE,…]", help="Or a task, whose problems are the prompts.")
    ] = None,
    n: Annotated[int, typer.Option(min=1, metavar="N", help="Number of a task's problems.")] = 16,
    method: Annotated[
        str, typer.Option(metavar="NAME", help=f"{', '.join(METHODS[:-1])} or {METHODS[-1]} (docs/logits.md).")
    ] = "auto",
    k: Annotated[int, typer.Option(min=1, metavar="K", help="Log-probabilities to ask for in a reply.")] = 5,
    bias: Annotated[
        float, typer.Option(metavar="NATS", help="Largest logit bias that the server accepts.")
    ] = 100.0,
    resolution: Annotated[
        float, typer.Option(metavar="NATS", help="Where the method `argmax` stops bisecting.")
    ] = 0.01,
    max_queries: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cap on the replies used, cached ones included.")
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="N", help="Length of a logit vector (default: the tokenizer's largest id + 1)."
        ),
    ] = None,
    token_ids: Annotated[
        bool, typer.Option("--token-ids", help="Ask for ids in place of texts (return_tokens_as_token_ids, vLLM).")
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Read every prompt token by token, complete none.")
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(metavar="NATS", help="Complete prompts once vectors kept aside are predicted within this."),
    ] = 0.01,
    checks: Annotated[
        int, typer.Option(min=0, metavar="N", help="Groups of tokens that are asked for once more.")
    ] = 8,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of a task's problems and of what is checked.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read a model's logits over the whole vocabulary through top-k log-probabilities and logit_bias."""
    if method not in METHODS:
        raise ConfigError(f"There is no method '{method}'; choose from: {', '.join(METHODS)}.")
    _check_paths(out, force)
    problems = _prompts(prompts, task, n, seed)

    from azeotrope.cli import lab_extract

    settings = lab_extract.settings({
        "method": method, "k": k, "bias": bias, "resolution": resolution, "max_queries": max_queries,
        "token_ids": token_ids, "complete": not whole, "tolerance": tolerance, "checks": checks, "seed": seed,
    })  # fmt: skip
    told = lab_extract.extract(endpoint, tokenizer, problems, settings, vocabulary=vocabulary, out=out)
    emit(told) if as_json else _tell(told)
    if told["capped"]:
        done = told["whole"] + told["completed"]
        raise RunError(
            f"The cap of {max_queries} queries was reached when {done} of {len(problems)} prompts were done; "
            f"'{out}' holds what was read (NaN elsewhere); running again with a higher --max-queries continues."
        )


def _check_paths(out: Path, force: bool) -> None:
    """Before anything is paid for."""
    if out.suffix != ".safetensors":
        raise ConfigError(f"'{out}' should end in .safetensors.")
    if out.is_dir() or (out.exists() and not force):
        raise ConfigError(f"'{out}' exists; choose another --out, or add --force to replace a file.")


def _prompts(path: Path | None, task: str | None, n: int, seed: int) -> list[Problem]:
    """The prompts of a file, or of a task's release; each once."""
    if (path is None) == (task is None):
        raise ConfigError("The prompts come from --prompts FILE or from --task TASK; give one of the two.")
    if task is not None:
        from azeotrope.cli import methods

        problems = methods.parse("tasks", task).problems("release", n, derive(seed, "release", 0))
        return list({problem.prompt: problem for problem in problems}.values())
    assert path is not None
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"'{path}' should end in {' or '.join(SUFFIXES)}.")
    if not path.is_file():
        raise MissingError(f"There is no file '{path}'; check the path.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        raise RunError(f"'{path}' cannot be read as UTF-8 text.") from None
    numbered = [(number, line.rstrip("\r")) for number, line in enumerate(lines, 1) if line.strip()]
    texts = {number: _text(line, f"'{path}', line {number},", path.suffix) for number, line in numbered}
    if not texts:
        raise ConfigError(f"'{path}' holds no prompts.")
    first = {text: number for number, text in reversed(texts.items())}
    return [Problem(id=f"line {number}", task="", prompt=text, answer="")
            for text, number in sorted(first.items(), key=lambda item: item[1])]  # fmt: skip


def _text(line: str, where: str, suffix: str) -> str:
    if suffix == ".txt":
        return line
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, TypeError, KeyError, RecursionError):
        prompt = None
    if not isinstance(prompt, str):
        raise ConfigError(f"{where} is not a JSON object with a text `prompt`.")
    return prompt


def _tell(told: dict[str, Any]) -> None:
    """Print what was read and what it took."""
    purposes = ", ".join(f"{count} {purpose}" for purpose, count in told["queries_by_purpose"].items())
    usage = told["replies_without_usage"]
    changes = [
        f"{told[name]:.1e} nats ({kind})"
        for name, kind in (("largest_change", "read"), ("largest_change_completed", "completed"))
        if told[name] is not None
    ]
    lines = {
        "out": told["out"],
        "method": told["method"] + (f", {told['k']} log-probabilities a reply" if told["k"] else ""),
        "prompts": f"{told['prompts']}: {told['whole']} whole, {told['completed']} completed",
        "vocabulary": f"{told['covered']} of {told['vocabulary']} tokens",
        "queries": f"{told['queries']} ({purposes}); completion saved {told['queries_saved']}",
        "tokens": f"{told['prompt_tokens']} in, {told['completion_tokens']} out"
        + (f"; {usage} replies did not say" if usage else ""),
        "requests sent now": f"{told['requests']}, for {told['spent']:.6g}",
        "hidden size": _size(told),
        "largest change": f"{', '.join(changes)}, of {told['asked_again']} asked again"
        if changes
        else "not checked",
    }
    width = max(map(len, lines))
    show(*(f"{name:{width}}  {value}" for name, value in lines.items()))


def _size(told: dict[str, Any]) -> str:
    """The hidden size, or what speaks against knowing it."""
    if told["rank"] is None:
        return "unknown: too few prompts were read whole"
    shown = (
        f"singular values fall {told['gap']:.3g}-fold after {told['rank']}, and vectors kept aside are predicted "
        f"within {told['held_out_error']:.1e} nats"
    )
    return f"{told['hidden_size']}: {shown}" if told["hidden_size"] else f"not shown: {shown}"
