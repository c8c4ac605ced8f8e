"""`policy`: look at the gateway's policy: is it valid, and what would a request get?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from azeotrope.cli.out import AsJson, emit, say, show

app = typer.Typer(help="Check the gateway's policy, and explain what a request would get.", no_args_is_help=True)
File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Policy file (default: the built-in one).")]


@app.command()
def check(file: File = None, as_json: AsJson = False) -> None:
    """Read a policy with all its defenses, and say what an operator should know."""
    from azeotrope.gateway.policy import DEFAULT
    from azeotrope.gateway.table import snapshot

    found = snapshot(file or DEFAULT)
    if as_json:
        emit(
            {
                "policy": str(file or DEFAULT),
                "hash": found.hash,
                "stances": {name: list(stance.labels) for name, stance in found.stances.items()},
                "contexts": [context.name for context in found.file.contexts],
                "warnings": found.warnings,
            }
        )
        return
    show(f"{file or 'the built-in policy'}: valid, {len(found.stances)} stances, hash {found.hash}")
    for warning in found.warnings:
        say(f"Warning: {warning}.")


@app.command()
def explain(
    file: File = None,
    tier: Annotated[str, typer.Option(metavar="NAME", help="What the key was made for.")] = "",
    tenant: Annotated[str, typer.Option(metavar="NAME", help="Whose key it is.")] = "",
    model: Annotated[str, typer.Option(metavar="NAME", help="The model that the request names.")] = "",
    dialect: Annotated[str, typer.Option(help="chat, completions, responses or messages.")] = "chat",
    level: Annotated[int, typer.Option(min=0, max=4, help="How suspicious the traffic is, 0 to 4.")] = 0,
    stream: Annotated[bool, typer.Option("--stream", help="The request streams.")] = False,
    tools: Annotated[bool, typer.Option("--tools", help="The request brings tools.")] = False,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="The request asks for log-probabilities.")] = False,
    reasoning: Annotated[bool, typer.Option("--reasoning", help="The request asks for reasoning.")] = False,
    most_tokens: Annotated[int | None, typer.Option(min=1, help="The limit that the request sets.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say which context a request falls into, why not into those above it, and what happens to its reply."""
    from azeotrope.core.errors import ConfigError, nearest
    from azeotrope.gateway.dialects import NAMES
    from azeotrope.gateway.policy import DEFAULT
    from azeotrope.gateway.table import Facts, snapshot

    if dialect not in NAMES:
        raise ConfigError(f"There is no dialect '{dialect}'.{nearest(dialect, NAMES)}")
    found = snapshot(file or DEFAULT)
    facts = Facts(
        tenant=tenant,
        tier=tier,
        model=model,
        dialect=dialect,
        level=level,
        stream=stream,
        tools=tools,
        logprobs=logprobs,
        reasoning=reasoning,
        most_tokens=most_tokens,
    )
    lines = found.explain(facts)
    if not as_json:
        show(*lines)
        return
    decision = found.decide(facts)
    emit(
        {
            "policy": found.hash,
            "context": decision.context,
            "stance": decision.stance.name,
            "raised_by_level": decision.raised,
            "dials": decision.stance.stance.model_dump(include={"disclose", "fidelity", "distillability"}),
            "defenses": list(decision.stance.labels),
            "study": decision.stance.study,
            "unmeasured": list(decision.stance.unmeasured),
            "why": lines,
        }
    )
