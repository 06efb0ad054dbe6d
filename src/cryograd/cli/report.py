"""``cryograd report``: build the report of a run again from its files."""

from cryograd.config import Report
from cryograd.report.build import build_report


def run(config: Report) -> dict[str, str]:
    """Write report.html, and return its path."""
    return {"report": str(build_report(config.folder))}


def summary(result: dict[str, str]) -> str:
    """Where the report is."""
    return f"report  {result['report']}"
