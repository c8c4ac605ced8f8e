"""Azeotrope: measure and control how well a language model's outputs train its cheaper copy."""

__version__ = "0.1.0"
