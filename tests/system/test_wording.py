"""The names nearest to a wrong one, and lengths of time."""

import pytest

from benchmark.system.wording import close_names, duration, nearest


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dcc", "; did you mean dc?"),
        ("DSA", "; did you mean dsa or dc?"),
        ("herdng", "; did you mean herding?"),
        ("xyzzy", "; known: dc, dsa, herding"),
        ("", "; known: dc, dsa, herding"),
    ],
)
def test_the_nearest_names_or_all_of_them(name, said):
    assert nearest(name, ("herding", "dsa", "dc")) == said


def test_the_likest_comes_first():
    assert close_names("cifar11", ("mnist", "cifar100", "cifar10")) == ["cifar10", "cifar100"]


def test_durations():
    assert [duration(seconds) for seconds in (0, 0.42, 9.4, 10, 119, 120, 7199, 7200, 90_000)] == [
        "0 s", "0.42 s", "9.4 s", "10 s", "119 s", "2 min", "120 min", "2.0 h", "25.0 h",
    ]  # fmt: skip
