"""Several strategies on one pipeline, side by side: speed against quality."""
