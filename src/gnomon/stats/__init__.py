"""What figures are sure of: intervals of shares, means and differences."""
