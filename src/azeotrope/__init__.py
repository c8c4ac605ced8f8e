"""Azeotrope: measure and control how well a language model's outputs train its cheaper copy.

``azeotrope.run``, ``results``, ``report`` and ``load`` are imported on first use, so that a plain install
stays light.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "report", "results", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'azeotrope' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("azeotrope.api"), name)
