"""An open, fair, fast benchmark of dataset condensation: plan, engine, substrate, store and report."""

__version__ = "0.1.0"
