"""The grid that was asked for: its cells, and what each of them will cost, as known before anything runs."""
