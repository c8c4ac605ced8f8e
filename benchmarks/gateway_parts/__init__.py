"""Servers that the gateway benchmark starts."""
