"""Scoring a condensed set: fresh networks are trained on it and measured on the test images."""
