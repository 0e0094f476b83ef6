"""What a unit of work costs: the product's path is timed against a plain reference in the same process.

    python -m benchmark.speed --dataset cifar10

`plain` holds the reference code, `units` pairs it with the product's, `measure` times a pair, `__main__` is the
command.
"""
