"""Plots, tables and the HTML report of a run, made from its folder alone."""
