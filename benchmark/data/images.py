"""Image files as uint8 tensors, many at a time (PIL releases the interpreter lock while it decodes)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmark.data.files import DataError, damaged

# Tasks of one image each would cost more in hand-over than in decoding.
_CHUNK = 256


class Header(NamedTuple):
    """What an image file says of itself. grey: no colour in its pixel format."""

    height: int
    width: int
    grey: bool


def read_headers(paths: Sequence[Path], title: str) -> list[Header]:
    """Return size and colour of every image, without decoding it. Raises DataError, naming the file, for one that
    cannot be used."""
    with ThreadPoolExecutor() as pool:
        chunks = pool.map(
            lambda start: [_header(path, title) for path in paths[start : start + _CHUNK]],
            range(0, len(paths), _CHUNK),
        )
        return [header for chunk in chunks for header in chunk]


def decode(paths: Sequence[Path], channels: int, height: int, width: int, title: str) -> Tensor:
    """Decode image files to uint8 [N, C, H, W]: luminance for C = 1, RGB for C = 3, without transparency.

    Raises DataError, headed by the data set's `title` and naming the file, if a file is damaged or of another size.
    """
    images = np.empty((len(paths), channels, height, width), dtype=np.uint8)
    mode = "L" if channels == 1 else "RGB"

    def fill(start: int) -> None:
        for index, path in enumerate(paths[start : start + _CHUNK], start):
            pixels = _decode_one(path, mode, title)
            if pixels.shape[:2] != (height, width):
                raise wrong_size(title, path, pixels.shape[:2], (height, width))
            images[index] = pixels if channels == 1 else pixels.transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(0, len(paths), _CHUNK)):
            pass
    return torch.from_numpy(images)


def wrong_size(title: str, path: Path, found: tuple[int, int], expected: tuple[int, int]) -> DataError:
    """Return the error for an image whose (height, width) is not that of the rest."""
    return DataError(
        f"{title}: {path} is {found[0]}x{found[1]} (height x width), expected {expected[0]}x{expected[1]}: "
        "all images of a data set must have one size. Resize or remove it."
    )


def _header(path: Path, title: str) -> Header:
    try:
        with Image.open(path) as image:
            mode, (width, height) = image.mode, image.size
    except Exception as error:  # a damaged header surfaces as whatever the format's parser stumbled over
        raise damaged(title, [path], error) from error
    if mode.startswith(("I", "F")):
        raise DataError(f"{title}: {path} has over 8 bits per channel (PIL mode {mode}). Convert it to 8.")
    return Header(height, width, grey=mode in ("1", "L", "LA", "La"))


def _decode_one(path: Path, mode: str, title: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except MemoryError:
        raise
    except Exception as error:  # as above: OSError, SyntaxError, ValueError, zlib and struct errors all occur
        raise damaged(title, [path], error) from error
