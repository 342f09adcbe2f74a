"""Matrices as small PNG images inside a page: ninety thousand cells are too many for SVG rectangles."""

import base64
import struct
import zlib

import numpy as np

# Cividis at nine places: even in lightness and alike to all kinds of colour vision.
_CIVIDIS = np.array(
    [
        (0, 34, 78),
        (26, 56, 111),
        (67, 78, 108),
        (97, 101, 111),
        (125, 124, 120),
        (155, 148, 118),
        (188, 174, 108),
        (222, 201, 88),
        (254, 232, 56),
    ],
    dtype=float,
)


def heat_image(values: np.ndarray) -> str:
    """A matrix as the data URL of a PNG image, one pixel a value.

    Args:
        values: Shape (rows, columns), from 0 (dark blue) to 1 (yellow); NaN is transparent.

    Returns:
        The `data:` URL.
    """
    missing = np.isnan(values)
    places = np.clip(np.where(missing, 0, values), 0, 1) * (len(_CIVIDIS) - 1)
    channels = [np.interp(places, np.arange(len(_CIVIDIS)), _CIVIDIS[:, channel]) for channel in range(3)]
    pixels = np.stack([*channels, np.where(missing, 0, 255)], axis=-1).round().astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(_png(pixels)).decode("ascii")


def _png(pixels: np.ndarray) -> bytes:
    """An RGBA image of shape (rows, columns, 4) in the PNG format (ISO/IEC 15948)."""
    rows, columns, _ = pixels.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)
    # Every line starts with its filter type, 0: none.
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, columns * 4)], axis=1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
