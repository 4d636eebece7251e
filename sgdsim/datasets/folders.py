"""A folder of images with a subfolder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.datasets.preparing import RawData

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_TEST = ("test", "val", "valid", "validation")
_GREY = ("1", "L", "LA")


@dataclass(frozen=True, eq=False)
class Images:
    """Images in files, read when asked for: unsigned bytes (n, channels, height, width), all of one size."""

    paths: Sequence[Path]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for k, row in enumerate(rows):
            out[k] = self._read(self.paths[row])
        return out

    def only(self, rows: np.ndarray) -> Images:
        """Those of these rows."""
        return Images([self.paths[row] for row in rows], self.shape)

    def _read(self, path: Path) -> np.ndarray:
        image, grey = _opened(path), self.shape[0] == 1
        if grey and not is_grey(image):
            raise InputError(
                f"{path}: expected a grey image as the first one, got one of colours; convert these or those"
            )
        pixels = as_pixels(image, grey=grey)
        if pixels.shape != self.shape:
            (_, height, width), (_, other, wide) = self.shape, pixels.shape
            raise InputError(f"{path}: expected {width} x {height} pixels as in the first image, got {wide} x {other}")
        return pixels


def as_pixels(image: object, *, grey: bool) -> np.ndarray:
    """The unsigned bytes (channels, height, width) of a Pillow image."""
    pixels = np.asarray(image.convert("L" if grey else "RGB"))  # type: ignore[attr-defined]
    return pixels[None] if grey else np.moveaxis(pixels, 2, 0)


def is_grey(image: object) -> bool:
    """Whether a Pillow image has no colours."""
    return getattr(image, "mode", "") in _GREY


def _opened(path: Path) -> object:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in (*_GREY, "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"):
                raise InputError(f"{path}: expected 8 bits for each colour, got a {image.mode} image; convert it first")
            return image.copy()
    except InputError:
        raise
    except Exception as error:  # a damaged image makes Pillow raise almost anything
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: expected an image that Pillow reads, got: {reason}") from error


def read_folder(folder: Path) -> RawData:
    """The images of `folder`, whose subfolders are the classes; of `train` and `test` in it, where these hold them."""
    train, test = folder, next((folder / name for name in _TEST if _classes(folder / name)), None)
    if _classes(folder / "train"):
        train = folder / "train"
    elif test is not None:
        raise InputError(f"{folder}: expected a folder train beside {test.name}, got none")
    names = _classes(train)
    if len(names) < 2:
        got = ", ".join(names) or "none"
        raise InputError(f"{folder}: expected two subfolders with images or more, one for each class, got {got}")
    files, labels = _files(train, names)
    ends = [_opened(files[at]) for at in (0, len(files) // 2, -1)]
    shape = as_pixels(ends[0], grey=all(is_grey(image) for image in ends)).shape
    raw = RawData(Images(files, shape), labels, "images", shape, 255.0, True, facts={"source": folder.name})
    if test is None:
        return raw
    odd = sorted({*_classes(test)} - {*names})
    if odd:
        raise InputError(f"{test}: expected the classes of {train.name}, got another one: {odd[0]}")
    test_files, test_labels = _files(test, _classes(test))
    return RawData(raw.x, labels, "images", shape, 255.0, True, Images(test_files, shape), test_labels, facts=raw.facts)


def _classes(folder: Path) -> list[str]:
    """The subfolders that hold images, by the alphabet."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and _images(path))


def _images(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS and not path.name.startswith(".")
    )


def _files(folder: Path, names: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    """The images of these classes, and the class of each."""
    files = {name: _images(folder / name) for name in names}
    return [path for of in files.values() for path in of], np.array([name for name, of in files.items() for _ in of])
