"""One page of the results of ``ald-ext experiment``, ours beside the paper's, as Markdown and as HTML."""

from ..results import Results, find_results
from .writing import Page, build_page, check_report, write_report

__all__ = ["Page", "Results", "build_page", "check_report", "find_results", "write_report"]
