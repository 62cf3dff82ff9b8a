"""Health: what is wrong with a pass, and nothing that is not."""

from nnrepl.explain.health.checks import health
from nnrepl.explain.health.report import Finding, Report, parse_limits

__all__ = ["Finding", "Report", "health", "parse_limits"]
