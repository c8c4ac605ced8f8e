"""A causal language model with its tokenizer, loaded by reference through one path."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from azeotrope.core.errors import ConfigError, MissingError, nearest
from azeotrope.core.seeds import fingerprint

transformers_logging.disable_progress_bar()

EMBEDDED_PREFIX = "embedded/"
EMBEDDED_ROOT = Path(__file__).resolve().parent.parent / "embedded"


@dataclass(eq=False)
class LM:
    """A model, its tokenizer, the reference it came from, and a revision that identifies the weights."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ref: str
    revision: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def eos(self) -> int:
        """The end-of-sequence token id."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad(self) -> int:
        """The padding token id (end of sequence where the tokenizer has none)."""
        pad = self.tokenizer.pad_token_id
        return self.eos if pad is None else int(pad)

    @property
    def vocab_size(self) -> int:
        """Rows of the LM head: the size of a logit vector."""
        return int(self.head.weight.shape[0])

    @property
    def head(self) -> nn.Linear:
        """The LM head (last linear map)."""
        head = self.model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise ConfigError(f"Model '{self.ref}' has no linear LM head, which head-based methods need.")
        return head

    @cached_property
    def forward_keys(self) -> frozenset[str]:
        """The argument names that the model's forward accepts."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several texts, without special tokens added."""
        if not texts:
            return []
        return [list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens are dropped."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def gradients(self) -> dict[str, Tensor]:
        """The current gradient of every trainable parameter that has one."""
        return {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}


def load(ref: str, *, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False) -> LM:
    """Load `ref`: ``embedded/NAME``, a local folder, or a Hugging Face name. Safetensors only.

    Raises ConfigError for an unknown embedded name, MissingError when nothing can be loaded from `ref`.
    """
    where = resolve(ref)
    try:
        tokenizer = _tokenizer(where, trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            str(where), dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise MissingError(f"Cannot load the model '{ref}': {first}") from None
    model.eval()
    return LM(model=model, tokenizer=tokenizer, ref=ref, revision=revision(ref))


def load_tokenizer(ref: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `ref` alone. Raises what `load` raises."""
    where = resolve(ref)
    try:
        return _tokenizer(where, trust_remote_code)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise MissingError(f"Cannot load the tokenizer '{ref}': {first}") from None


def _tokenizer(where: str | Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Load the tokenizer a folder says it has; AutoTokenizer would let the model type overrule it."""
    settings = Path(where) / "tokenizer_config.json"
    if settings.is_file():
        declared = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
        if declared in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            return PreTrainedTokenizerFast.from_pretrained(str(where))
    return AutoTokenizer.from_pretrained(str(where), trust_remote_code=trust_remote_code)


def resolve(ref: str) -> str | Path:
    """Map a reference to what `from_pretrained` takes."""
    if ref.startswith(EMBEDDED_PREFIX):
        name = ref.removeprefix(EMBEDDED_PREFIX)
        if name not in embedded_names():
            known = [EMBEDDED_PREFIX + one for one in embedded_names()]
            raise ConfigError(f"There is no embedded model '{ref}'.{nearest(ref, known)}")
        return EMBEDDED_ROOT / name
    return ref


def embedded_names() -> list[str]:
    """Names of the models shipped in the package."""
    return sorted(path.parent.name for path in EMBEDDED_ROOT.glob("*/config.json"))


def family_members(prefix: str) -> list[str]:
    """Embedded references that belong to a family prefix, e.g. ``embedded/student-llama`` → its bases."""
    name = prefix.removeprefix(EMBEDDED_PREFIX)
    members = [n for n in embedded_names() if n == name or n.rpartition("-")[0] == name]
    if not members:
        families = {n.rpartition("-")[0] or n for n in embedded_names()}
        raise ConfigError(f"There is no embedded model family '{prefix}'.{nearest(name, families)}")
    return [EMBEDDED_PREFIX + n for n in members]


def revision(ref: str) -> str:
    """A short hash of the weights and configuration (folders) or of the name (hub references)."""
    where = resolve(ref)
    folder = Path(where)
    if not folder.is_dir():
        return fingerprint(["hub", ref])
    import hashlib

    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]):
        if path.exists():
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def check_pair(teacher: LM | Outline, proxy: LM | Outline) -> None:
    """Raise ConfigError unless both models share one vocabulary (same tokens, same ids)."""
    alike = _vocabulary(teacher) == _vocabulary(proxy)
    if teacher.vocab_size != proxy.vocab_size:
        raise ConfigError(
            f"The proxy '{proxy.ref}' has a vocabulary of {proxy.vocab_size} tokens but the teacher "
            f"'{teacher.ref}' has {teacher.vocab_size}; "
            + (
                "their tokenizers are the same and a head is padded, so save the proxy with as many rows "
                "(resize_token_embeddings)."
                if alike
                else "choose a proxy that shares the teacher's tokenizer."
            )
        )
    if not alike:
        raise ConfigError(
            f"The proxy '{proxy.ref}' and the teacher '{teacher.ref}' number their tokens differently; "
            f"choose a proxy that shares the teacher's tokenizer."
        )


@dataclass(frozen=True, slots=True)
class Outline:
    """What can be known of a model without loading its weights."""

    ref: str
    vocab_size: int
    vocabulary: dict[str, int]
    blocks: int  # 0: not known


@lru_cache(maxsize=64)
def outline(ref: str) -> Outline | None:
    """The outline of an embedded model or a local folder; None for what would have to be fetched first.

    Raises ConfigError for an unknown embedded name.
    """
    where = Path(resolve(ref))
    if not (where / "config.json").is_file():
        return None
    try:
        told = AutoConfig.from_pretrained(str(where)).get_text_config()
        return Outline(
            ref, int(told.vocab_size), load_tokenizer(ref).get_vocab(), getattr(told, "num_hidden_layers", 0)
        )
    except (OSError, ValueError, AttributeError, MissingError):
        return None  # loading it will say what is wrong


def _vocabulary(model: LM | Outline) -> dict[str, int]:
    return model.vocabulary if isinstance(model, Outline) else model.tokenizer.get_vocab()
