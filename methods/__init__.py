"""Condensation methods and reference rows, one file each.

A new file here is a new method; see `benchmark.condensation.method`.
"""
