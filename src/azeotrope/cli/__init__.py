"""The command line. Importing it imports no torch; commands that need the lab import it when they run."""

from azeotrope.cli.entry import main

__all__ = ["main"]
