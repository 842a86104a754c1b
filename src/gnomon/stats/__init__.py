"""Confidence intervals of shares, means and differences."""
