"""A page of results, ours beside the paper's, as Markdown and as HTML."""

from .writing import check_report, write_report

__all__ = ["check_report", "write_report"]
