"""Images that conversations of calibration data name: files, looked at before anything is made."""

from __future__ import annotations

import mmap
import re
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from quantpress.errors import InputError, first_line, shown

# Pillow reads more (PostScript, by running Ghostscript): only formats of pixels are opened.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
LARGEST = 64 * 2**20  # bytes of a file, and pixels of an image; Pillow itself takes 89 million for a trap
_NAMES = re.compile(rb'"image(_url)?"')
_SCHEME = re.compile(r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://|^(?P<data>data):")
_HINT = "name a file by its path, relative to the .jsonl or absolute; or leave the image out"


def may_name_images(path: Path) -> bool:
    """Whether the bytes of a .jsonl hold a part of type image: a gigabyte of texts is told from it within a second."""
    if path.suffix != ".jsonl" or path.stat().st_size == 0:
        return False
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _NAMES.search(content) is not None


def named(part: dict[str, Any], folder: Path, where: str) -> Path | None:
    """The file that a part of a message names as its image; None where it is no image, or one that names no file.

    Hugging Face's way is `path`, `image` or `url` beside the type `image`, OpenAI's is `image_url`. A path counts from
    `folder`. Raises InputError for what would have to be fetched or decoded.
    """
    if part.get("type") not in ("image", "image_url"):
        return None
    value = next((part[key] for key in ("path", "image", "url", "image_url") if part.get(key) is not None), None)
    if isinstance(value, dict):
        value = value.get("url")
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise InputError(f"{where}: an image is {shown(value)}, not the path of a file", hint=_HINT)
    if value.startswith("file://"):
        value = unquote(value.removeprefix("file://"))
    elif found := _SCHEME.match(value):
        scheme = found["scheme"] or found["data"]
        raise InputError(
            f"{where}: the image {shown(value)} is a {scheme} URL: nothing is fetched, images are files", hint=_HINT
        )
    return folder / value


def require_image(path: Path, where: str) -> None:
    """Raises InputError, naming `where` it is named, for a file that is no image of FORMATS or is too large.

    Only the file's head is read; what is cut short is found where its pixels are (`opened`).
    """
    from PIL import Image  # 30 ms: only where images are named

    try:
        if not path.is_file():
            raise InputError(f"{where}: the image {path} does not exist", hint=_HINT)
        if (size := path.stat().st_size) > LARGEST:
            raise _too_large(path, where, f"{size >> 20} MiB", f"{LARGEST >> 20} MiB")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, where, error) from error
    if width * height > LARGEST:
        raise _too_large(path, where, f"{width} x {height} pixels", f"{LARGEST} pixels")


def opened(path: Path, where: str) -> Any:
    """The image as processors take it: upright, in red, green and blue. Raises InputError for one that is cut short."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, where, error) from error


def _unreadable(path: Path, where: str, error: Exception) -> InputError:
    return InputError(
        f"{where}: the image {path} cannot be read: {first_line(error)}",
        hint=f"images are files of {', '.join(FORMATS)}; save it anew, or leave it out",
    )


def _too_large(path: Path, where: str, size: str, most: str) -> InputError:
    return InputError(
        f"{where}: the image {path} has {size}, more than {most}", hint="make it smaller: processors scale images down"
    )
