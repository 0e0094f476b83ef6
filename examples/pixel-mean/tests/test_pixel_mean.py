"""The one test that every method should have."""

from pixel_mean import PixelMean

from benchmark.testing import check_method


def test_it_keeps_the_contract():
    check_method(PixelMean)
