"""`traces`, `merge`, `attack`, `evaluate`: one stage of the loop alone, on the same code as a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from azeotrope.cli.out import AsJson, emit, interval, show, table

MODEL = "embedded/NAME, a local folder, or a Hugging Face name."
TEACHER = "embedded/NAME, a local folder, a Hugging Face name, or an endpoint, https://host/v1#model."
METHOD = "KIND[:NAME=VALUE,…]"
Task = Annotated[str, typer.Option(metavar=METHOD, help="Task, e.g. lookup or lookup:max_steps=2 (or JSON).")]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of problems and sampling.")]
Temperature = Annotated[float, typer.Option(min=0.0, metavar="T", help="Sampling temperature; 0 is greedy.")]


def traces(
    teacher: Annotated[str, typer.Option(metavar="MODEL", help=TEACHER)],
    task: Task,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write: .parquet or .jsonl.")],
    n: Annotated[int, typer.Option(min=1, metavar="N", help="Number of traces.")] = 100,
    defense: Annotated[
        list[str] | None,
        typer.Option(metavar=METHOD, help="Defense, e.g. ads:lam=0.2 (or JSON); repeat to compose."),
    ] = None,
    temperature: Temperature = 0.6,
    seed: Seed = 0,
    resample: Annotated[
        int, typer.Option(min=0, metavar="N", help="Another number samples the same problems once more.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Sample a release from a (defended) teacher and write it to a file."""
    from azeotrope.cli import lab

    found = lab.make_traces(teacher, task, defense or [], n=n, temperature=temperature, seed=seed,
                            resample=resample, out=out)  # fmt: skip
    _tell(found, as_json)


def merge(
    defense: Annotated[
        str, typer.Argument(metavar=METHOD, help="Defense, e.g. cmi or ads:merged=true,backend=self.")
    ],
    teacher: Annotated[str, typer.Option(metavar="MODEL", help=MODEL)],
    task: Task,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the model, new or empty.")],
    temperature: Temperature = 0.6,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Fold a defense into a model's weights, for vLLM, llama.cpp or any other engine to serve."""
    from azeotrope.cli import lab

    found = lab.merge_defense(teacher, task, defense, temperature=temperature, seed=seed, out=out)
    _tell(found if as_json else {name: value for name, value in found.items() if name != "notes"}, as_json)


def attack(
    release: Annotated[Path, typer.Option(metavar="FILE", help="Traces, as `azeotrope traces` writes them.")],
    student: Annotated[str, typer.Option(metavar="MODEL", help=MODEL)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the trained student, new or empty.")],
    attack_: Annotated[
        str, typer.Option("--attack", metavar=METHOD, help="Attack, e.g. sft or sft:epochs=3 (or JSON).")
    ] = "sft",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train a student on a release, as a thief would, and save it."""
    from azeotrope.cli import lab

    _tell(lab.train_student(release, attack_, student, seed=seed, out=out), as_json)


def evaluate(
    model: Annotated[str, typer.Option(metavar="MODEL", help=MODEL)],
    task: Task,
    n: Annotated[int, typer.Option(min=1, metavar="N", help="Number of test problems.")] = 200,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure a model on a task: accuracy, finished share, trace validity, recall, self-correction."""
    from azeotrope.cli import lab

    _tell(lab.evaluate(model, task, n=n, temperature=temperature, seed=seed), as_json)


def epsilon(
    teacher: Annotated[str, typer.Option(metavar="MODEL", help=MODEL)],
    proxy: Annotated[str, typer.Option(metavar="MODEL", help="Proxy; shares the teacher's vocabulary.")],
    task: Task,
    n: Annotated[int, typer.Option(min=2, metavar="N", help="Holdout traces of the gradient.")] = 128,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Find the finite-difference step of `ads`: its error against exact forward-mode derivatives."""
    from azeotrope.cli import lab

    found = lab.epsilon(teacher, proxy, task, n=n, seed=seed)
    if as_json:
        emit(found)
        return
    rows = [(f"{p['epsilon']:.1e}", f"{p['error']:.2e}") for p in found.pop("curve")]
    table("Error of finite differences (sine of the angle to the exact penalty)", ("epsilon", "error"), rows)
    _tell(found, as_json)


def _tell(found: dict[str, Any], as_json: bool) -> None:
    """Print a flat result: scores with their interval and n, the rest as it is."""
    if as_json:
        emit(found)
        return
    width = max(len(name) for name in found)
    for name, value in found.items():
        if isinstance(value, dict) and "low" in value:
            text = f"{interval(value['value'], value['low'], value['high'])} (n = {value['n']})"
        else:
            text = "not measured by this task" if value is None else str(value)
        show(f"{name.replace('_', ' '):{width}}  {text}")
