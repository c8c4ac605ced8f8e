"""What `extract` does. Imports torch: import it only when that command runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save

from azeotrope.cli.out import say
from azeotrope.core.errors import ConfigError
from azeotrope.core.methods import explain
from azeotrope.core.types import Problem
from azeotrope.models import extract as extraction
from azeotrope.models.endpoint import Endpoint, parse_ref
from azeotrope.models.extract_tokens import Vocabulary
from azeotrope.models.lm import load_tokenizer
from azeotrope.study.store import disk, write_bytes

FORMAT = 1


def settings(values: Mapping[str, Any]) -> extraction.Extraction:
    """Options as settings. Raises ConfigError for those out of range."""
    try:
        return extraction.Extraction.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, "extract", extraction.Extraction)) from None


def extract(
    ref: str,
    tokenizer: str,
    problems: Sequence[Problem],
    settings: extraction.Extraction,
    *,
    vocabulary: int | None,
    out: Path,
) -> dict[str, Any]:
    """Read logits at prompts and write them to `out`; returns the figures.

    Raises what `models.extract.extract` raises, and nothing is written then; RunError if `out` cannot be.
    """
    endpoint = Endpoint(parse_ref(ref, api="completions"))
    words = Vocabulary(load_tokenizer(tokenizer), vocabulary)
    found = extraction.extract(endpoint, words, problems, settings, say)
    told = {"endpoint": endpoint.settings.ref, "tokenizer": tokenizer, **found.summary()}
    _write(out, found, problems, told)
    return {"out": str(out), **told, **endpoint.ledger()}


def _write(out: Path, found: extraction.Extracted, problems: Sequence[Problem], told: Mapping[str, Any]) -> None:
    """Logits [N, V] with NaN where not known, which of them were asked for, the tokens' ids; all or nothing."""
    tensors = {
        "logits": found.logits_NV.contiguous(),
        "asked": found.asked_NV.contiguous(),
        "token_ids": torch.arange(found.logits_NV.shape[1]),
    }
    read = problems[: len(found.logits_NV)]
    hashes = [sha256(problem.prompt.encode("utf-8", "replace")).hexdigest() for problem in read]
    about = {"format": FORMAT, **told, "sha256_of_prompts": hashes}
    with disk(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, save(tensors, {"extraction": json.dumps(about)}))  # of several, the order would be random
