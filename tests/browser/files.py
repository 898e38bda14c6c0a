"""Files for the page, made on the spot: a PDF, a video, a HEIC, a large photo."""

import io
from pathlib import Path

import av
import numpy as np
from PIL import Image

from media.heic import heic


def pdf(*pages: Path) -> bytes:
    """A PDF with one picture on each page."""
    pictures = [Image.open(page).convert("RGB") for page in pages]
    out = io.BytesIO()
    pictures[0].save(out, "PDF", save_all=True, append_images=pictures[1:])
    return out.getvalue()


def video(picture: Path, seconds: int) -> bytes:
    """A WebM (VP8, 8 frames a second) in which the picture stands still."""
    shown, out = Image.open(picture).convert("RGB"), io.BytesIO()
    with av.open(out, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=8)
        stream.width, stream.height, stream.pix_fmt = *shown.size, "yuv420p"
        frame = av.VideoFrame.from_image(shown)
        for _ in range(8 * seconds):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def heic_of(picture: Path) -> bytes:
    """The picture as a phone would keep it, which no browser here can draw."""
    return heic(np.asarray(Image.open(picture).convert("RGB")))


def noise_jpeg(width: int, height: int) -> bytes:
    """A photo of nothing: smooth noise, a few hundred kilobytes."""
    small = np.random.default_rng(1).integers(0, 256, (height // 50, width // 50, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((width, height)).save(out, "JPEG", quality=85)
    return out.getvalue()
