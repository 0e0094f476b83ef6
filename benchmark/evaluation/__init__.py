"""Scoring a condensed set: fresh networks trained on it, measured on the test images."""
