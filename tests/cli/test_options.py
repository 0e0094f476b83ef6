"""From options to a grid: what is chosen where nothing is said."""

import pytest

from benchmark.cli.options import Options, grid_of


@pytest.mark.parametrize(
    ("asked", "fast", "expected"),
    [
        ({"datasets": ("digits",)}, True, "bf16"),  # the quick schedule
        ({"datasets": ("cifar10",), "schedule": "0.05"}, True, "bf16"),
        ({"datasets": ("cifar10",)}, True, "float32"),  # the paper's
        ({"datasets": ("digits", "cifar10")}, True, "float32"),
        ({"datasets": ("digits",)}, False, "float32"),
        ({"datasets": ("cifar10",), "precision": "bf16"}, False, "bf16"),
        ({"datasets": ("digits",), "precision": "float32"}, True, "float32"),
    ],
)
def test_bfloat16_is_the_default_of_short_schedules_where_it_is_fast(asked, fast, expected, tmp_path):
    assert grid_of(Options(methods=("dm",), **asked), tmp_path, fast).precision == expected
