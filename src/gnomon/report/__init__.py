"""Plots, tables and the HTML report of a run, built from its directory alone."""

from gnomon.report.html import write_report
from gnomon.report.overoptimisation import overoptimisation_plot
from gnomon.report.read import RunView, StageView, read_run
from gnomon.report.table import comparison_table, further_tables, samples_panel

__all__ = [
    "RunView",
    "StageView",
    "comparison_table",
    "further_tables",
    "overoptimisation_plot",
    "read_run",
    "samples_panel",
    "write_report",
]
