"""Running the jobs of a grid: in this process, in several, or on a Ray cluster."""
