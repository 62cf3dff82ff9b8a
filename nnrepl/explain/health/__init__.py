"""Health: what is wrong with a pass, and nothing that is not."""

from nnrepl.explain.health.report import Finding, Report, health, parse_limits

__all__ = ["Finding", "Report", "health", "parse_limits"]
