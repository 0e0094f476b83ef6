"""The grid that was asked for: its cells, and what each will cost before anything runs."""
