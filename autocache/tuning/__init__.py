"""Finding the best schedule and the calibration tables for a model of one's own."""
