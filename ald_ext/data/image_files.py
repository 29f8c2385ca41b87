"""One file with an image of any format, size and mode, as 32 x 32 pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .image_data import IMAGE_SIZE
from .pixel_values import are_whole

if TYPE_CHECKING:
    from PIL import Image

#: Modes of Pillow with more than 8 bits, and all modes without colour.
DEEP_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N", "F"}
GREY_MODES = {"1", "L", "LA", "La"}
#: A JPEG is decoded at a reduced size, at least this multiple of what is needed, which is fast and costs no quality.
DRAFT = 4
#: Formats whose further frames are pictures of their own; an MPO, for one, holds previews.
FORMATS_OF_FRAMES = {"GIF", "PNG", "WEBP", "TIFF", "AVIF"}
#: Beginnings of files that stand where data were expected, in lower case, and what they are.
NO_DATA = {
    b"<!doctype": "an HTML page, which a failed download leaves",
    b"<html": "an HTML page, which a failed download leaves",
    b"version https://git-lfs": "a Git LFS pointer; `git lfs pull` gets the file",
}


@dataclass(frozen=True)
class Picture:
    """The centred square of an image, resized.

    Attributes:
        pixels: (C, 32, 32) with C = 1 or 3: uint8, transparent pixels on black; float32 where ``extremes`` are given.
        alpha: opacity (1, 32, 32), uint8; None where every pixel is opaque.
        extremes: the least and the greatest value of an image with more than 8 bits, which is yet to be scaled.
        whole: whether these values are whole numbers.
        mode: the mode of such an image: "I;16", "I" or "F".
        more_frames: whether the file holds other frames than this, the first.
        upper_bits: whether the file has 16 bits of each colour, of which Pillow reads the upper 8.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    extremes: tuple[float, float] | None = None
    whole: bool = True
    mode: str = ""
    more_frames: bool = False
    upper_bits: bool = False


def evident_fault(path: Path) -> str | None:
    """Return what a file is that evidently holds no data: empty, an HTML page, a Git LFS pointer. OSError as open."""
    with path.open("rb") as file:
        beginning = file.read(256).lstrip().lower()
    if not path.stat().st_size:
        return "empty"
    return next((fault for start, fault in NO_DATA.items() if beginning.startswith(start)), None)


def pillow_formats(suffix: str) -> list[str]:
    """Return the formats that a file can be of: those with a signature, and that of its suffix.

    Encapsulated PostScript is not among them: Pillow would run Ghostscript on it.
    """
    from PIL import Image

    by_suffix = Image.registered_extensions().get(suffix.lower())  # loads all that Pillow has
    return [name for name, (_, accepts) in Image.OPEN.items() if name != "EPS" and (accepts or name == by_suffix)]


def read_picture(path: Path) -> Picture:
    """Return the image in a file.

    Raises:
        ValueError: the file holds no image that can be read; says why.
        ImportError: Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"dataset: {error}. Install what reads images: pip install pillow") from error

    if not path.is_file():
        raise ValueError("a broken link" if path.is_symlink() else "no regular file")
    try:
        fault = evident_fault(path)
        if fault:
            raise ValueError(fault)
        with Image.open(path, formats=pillow_formats(path.suffix)) as file:
            more_frames = file.format in FORMATS_OF_FRAMES and bool(getattr(file, "is_animated", False))
            upper_bits = file.mode not in DEEP_MODES and any(";16" in str(tile) for tile in getattr(file, "tile", ()))
            file.draft(None, (DRAFT * IMAGE_SIZE, DRAFT * IMAGE_SIZE))
            return replace(picture_of(upright(file)), more_frames=more_frames, upper_bits=upper_bits)
    except (MemoryError, ImportError):
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        reason = f"more than {limit:.0f} megapixels: make it smaller, or set PIL.Image.MAX_IMAGE_PIXELS in Python"
        raise ValueError(reason) from error
    except Image.UnidentifiedImageError as error:
        phones = path.suffix.lower() in (".heic", ".heif")
        raise ValueError("no image that Pillow reads" + phones * ": save it as JPEG") from error
    except OSError as error:
        raise ValueError(shorten(error.strerror or str(error))) from error
    except Exception as error:  # Pillow raises nearly anything on a broken file: SyntaxError, struct.error, KeyError
        raise ValueError(shorten(str(error) or type(error).__name__)) from error


def shorten(text: str) -> str:
    """Return a reason in one line of at most 100 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:99]}…"


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF data say, or as it is where these are damaged."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # where the pixels are damaged and not the EXIF data, reading them will tell
        return image


def picture_of(image: Image.Image) -> Picture:
    """Return the centred square of an image, resized. ValueError for NaN or infinite values."""
    from PIL import Image

    if image.mode in DEEP_MODES:
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("values that are NaN or infinite")
        extremes = (float(values.min()), float(values.max()))
        pixels = square(Image.fromarray(values.astype(np.float32)))
        return Picture(pixels, None, extremes, are_whole(values), image.mode[:4])
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return Picture(square(image.convert(mode)))
    transparent = image.convert("RGBA")
    opacity = transparent.getchannel("A")
    on_black = Image.new(mode, image.size)
    on_black.paste(transparent.convert(mode), mask=opacity)
    opaque = opacity.getextrema() == (255, 255)
    return Picture(square(on_black), None if opaque else square(opacity))


def square(image: Image.Image) -> np.ndarray:
    """Return the largest centred square of an image, resized, (C, 32, 32)."""
    from PIL import Image, ImageOps

    resized = ImageOps.fit(image, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    return np.asarray(resized).reshape(IMAGE_SIZE, IMAGE_SIZE, -1).transpose(2, 0, 1)
