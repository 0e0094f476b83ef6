"""The contract between methods and the benchmark: a method and its loop, its task and its run, and what cells share."""
