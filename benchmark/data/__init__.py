"""Data sets as uint8 tensors on the device: seven named ones and any folder of images."""

from benchmark.data.catalog import describe, load, names, spec
from benchmark.data.dataset import Dataset, DatasetSpec, Split
from benchmark.data.files import DataError
from benchmark.data.folder import read_class_folders

__all__ = ["DataError", "Dataset", "DatasetSpec", "Split", "describe", "load", "names", "read_class_folders", "spec"]
