"""The models that the package ships, read from their files (no torch)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent / "embedded"
PREFIX = "embedded/"


def models(root: Path = ROOT) -> list[dict[str, Any]]:
    """Return name, architecture and size of every embedded model; a broken one carries its problem."""
    return [_model(path.parent) for path in sorted(root.glob("*/config.json"))]


def _model(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = {
        "name": PREFIX + folder.name,
        "architecture": "",
        "hidden": None,
        "layers": None,
        "vocabulary": None,
        "megabytes": None,
        "problem": "",
    }
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        about["architecture"] = str(config.get("model_type", ""))
        about["hidden"] = config.get("hidden_size", config.get("n_embd"))
        about["layers"] = config.get("num_hidden_layers", config.get("n_layer"))
        about["vocabulary"] = config.get("vocab_size")
        about["megabytes"] = round((folder / "model.safetensors").stat().st_size / 2**20, 2)
        if not (folder / "tokenizer.json").is_file():
            about["problem"] = "tokenizer.json is missing"
    except FileNotFoundError as error:
        about["problem"] = f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError):
        about["problem"] = "config.json cannot be read"
    return about
