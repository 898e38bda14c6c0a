"""Makes HEIC pictures for the tests: one HEVC frame, in the boxes of ISO/IEC 23008-12. Knows none of our code."""

from __future__ import annotations

import io
import struct

import av
import numpy as np


def heic(pixels: np.ndarray, quarter_turns: int = 0, exif: bytes = b"", size: tuple[int, int] | None = None) -> bytes:
    """`pixels` (RGB uint8 [height, width, 3], even sides), to be turned counter-clockwise by the reader.

    `exif` is a TIFF block. `size` (height, width) is what the header announces, if not the truth.
    """
    configuration, frame = _encoded(pixels)
    height, width = size or pixels.shape[:2]
    properties = [_box(b"hvcC", configuration), _box(b"ispe", bytes(4), struct.pack(">II", width, height))]
    if quarter_turns:
        properties.append(_box(b"irot", bytes([quarter_turns])))
    associations = bytes([0x80 | 1, 2, *([0x80 | 3] if quarter_turns else [])])
    ipma = _box(b"ipma", bytes(4), struct.pack(">IHB", 1, 1, len(associations)), associations)
    items = [(1, b"hvc1", frame)] + ([(2, b"Exif", bytes(4) + exif)] if exif else [])
    infos = b"".join(
        _box(b"infe", b"\2\0\0\0", struct.pack(">HH", number, 0), kind, b"\0") for number, kind, _ in items
    )
    references = _box(b"iref", bytes(4), _box(b"cdsc", struct.pack(">HHH", 2, 1, 1))) if exif else b""
    ftyp = _box(b"ftyp", b"heic", bytes(4), b"mif1heic")

    def meta(places: list[int]) -> bytes:
        extents = b"".join(
            struct.pack(">HHHII", number, 0, 1, place, len(data))
            for (number, _, data), place in zip(items, places, strict=True)
        )
        return _box(
            b"meta",
            bytes(4),
            _box(b"hdlr", bytes(8), b"pict", bytes(13)),
            _box(b"pitm", bytes(4), struct.pack(">H", 1)),
            _box(b"iloc", bytes(4), b"\x44\0", struct.pack(">H", len(items)), extents),
            _box(b"iinf", bytes(4), struct.pack(">H", len(items)), infos),
            references,
            _box(b"iprp", _box(b"ipco", *properties), ipma),
        )

    start = len(ftyp) + len(meta([0] * len(items))) + 8
    places = [start + sum(len(data) for _, _, data in items[:index]) for index in range(len(items))]
    return ftyp + meta(places) + _box(b"mdat", *(data for _, _, data in items))


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", len(body) + 8) + kind + body


def _encoded(pixels: np.ndarray) -> tuple[bytes, bytes]:
    """The HEVC configuration record and the one frame, taken out of an MP4."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as clip:
        stream = clip.add_stream("libx265", rate=25, options={"crf": "4", "x265-params": "bframes=0:log-level=none"})
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "yuv444p"
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode()]:
            clip.mux(packet)
    data = file.getvalue()
    at = data.index(b"hvcC")
    record = data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]
    at = data.index(b"mdat")
    return record, data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]
