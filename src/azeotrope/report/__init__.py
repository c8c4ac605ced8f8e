"""The HTML report and its plots."""

from azeotrope.report.build import build
from azeotrope.report.svg import tradeoff_svg

__all__ = ["build", "tradeoff_svg"]
