"""Configuration: read once at start from the environment, frozen, handed down in the piece each part needs."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sightline.errors import SettingsError
from sightline.types import Precision

PREFIX = "SIGHTLINE_"
MIB = 1 << 20


def default_cache_dir() -> Path:
    """The user's cache folder (XDG_CACHE_HOME or ~/.cache), or one in the temporary folder when there is no home."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "sightline"
    try:
        return Path.home() / ".cache" / "sightline"
    except RuntimeError:  # no HOME and no passwd entry, as in some containers
        return Path(tempfile.gettempdir()) / f"sightline-{os.getuid()}"


def default_data_dir() -> Path:
    """The user's data folder (XDG_DATA_HOME or ~/.local/share), or beside the cache when there is no home."""
    base = os.environ.get("XDG_DATA_HOME")
    if base:
        return Path(base) / "sightline"
    try:
        return Path.home() / ".local" / "share" / "sightline"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"sightline-{os.getuid()}" / "data"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the engine may use. None means: computed from the machine at load."""

    precision: Precision = "exact"
    threads: int | None = None
    kv_bytes: int | None = None
    vision_cache_bytes: int = 256 * MIB
    max_running: int = 3  # sequences answered at once
    max_waiting: int = 64  # interactive sequences queued behind them
    max_waiting_bulk: int = 64
    own_kernels: bool = True  # where processor and build have them; off for comparing, or when in doubt
    speculate: bool = True  # try guessed tokens; off for measuring what that brings
    max_context: int | None = None
    cache_dir: Path = field(default_factory=default_cache_dir)


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """Limits on the pictures of a request."""

    max_image_bytes: int = 10 * MIB  # encoded
    max_image_pixels: int = 100_000_000  # decoded, from the header, before anything is decoded
    max_image_side: int = 1920  # longer sides are scaled down before the model sees them
    max_images: int = 64
    max_video_bytes: int = 40 * MIB  # encoded; as base64 it still fits into a body
    max_videos: int = 4
    max_video_s: float = 30.0
    long_video: Literal["trim", "reject"] = "trim"
    max_video_frames: int = 64  # that the model sees; 30 s at its own two per second are 60
    max_video_pixels: int = 8 << 20  # of all these frames together: 4096 tokens
    max_frame_pixels: int = 16_000_000  # decoded; 4K has 9 million
    video_timeout_s: float = 60.0
    max_document_bytes: int = 32 * MIB  # encoded; as base64 it still fits into a body
    max_pages: int = 32  # of documents, in one prompt
    max_document_pages: int = 500  # that a task reads one by one
    max_page_pixels: int = 25_000_000  # that one page is drawn with; A4 at 500 dpi has 24 million
    page_dpi: int = 144  # unless the request says; an A4 page has 1684 x 1190 pixels then
    workers: int = 2
    worker_memory_bytes: int = 1024 * MIB
    timeout_s: float = 20.0
    hosts: tuple[str, ...] = ()  # that media may be fetched from; none: nothing is fetched
    fetches: int = 8  # at once, over all requests
    fetch_s: float = 20.0  # for one of them, from its first packet to its last byte


def _listed(value: object) -> object:
    """Names from one text, as the environment has it."""
    return re.split(r"[,\s]+", value.strip().lower()) if isinstance(value, str) and value.strip() else value or ()


def _host_name(value: str) -> str:
    if not re.fullmatch(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*(:[0-9]{1,5})?", value):
        raise PydanticCustomError("host_name", "hosts are written cdn.example.com, *.example.com or example.com:8443")
    return value


HostName = Annotated[str, AfterValidator(_host_name)]


class Settings(BaseSettings):
    """All settings, from `SIGHTLINE_…` environment variables; `MAX_CONCURRENCY` is honoured: scripts set it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    base_path: str = Field(
        "", pattern=r"^(/[\w.~-]+)*$", description="all routes answer under this too: /qwen-vl for /qwen-vl/infer"
    )
    model: str | None = Field(None, description="checkpoint folder or hub id; the embedded demo model when empty")
    lighter_model: str | None = Field(
        None, description="checkpoint folder or hub id of a lighter model, which answers when the queue is full"
    )
    precision: Precision = "exact"
    threads: int | None = Field(None, ge=1)
    own_kernels: bool = Field(True, description="off: OpenVINO's kernels compute everything")
    kv_cache_mb: int | None = Field(None, ge=1)
    vision_cache_mb: int = Field(256, ge=0)
    max_concurrency: int = Field(
        3, ge=1, le=256, validation_alias=AliasChoices("SIGHTLINE_MAX_CONCURRENCY", "MAX_CONCURRENCY")
    )
    max_queue: int = Field(64, ge=0)
    max_bulk_queue: int = Field(64, ge=0)
    max_context: int | None = Field(None, ge=64)
    max_image_mb: float = Field(10, gt=0)
    max_image_side: int = Field(1920, ge=32)
    max_images: int = Field(64, ge=1)
    max_document_mb: float = Field(32, gt=0)
    max_pages: int = Field(32, ge=1, description="pages of documents in one prompt")
    max_document_pages: int = Field(500, ge=1, description="pages that doc_analyze reads in one call")
    page_dpi: int = Field(144, ge=18, le=1200, description="dots per inch that pages are drawn with")
    max_video_mb: float = Field(40, gt=0)
    max_video_frames: int = Field(64, ge=1, le=768)
    long_video: Literal["trim", "reject"] = Field("trim", description="what becomes of a clip over 30 s: cut, or a 400")
    max_body_mb: float = Field(64, gt=0)
    media_hosts: Annotated[tuple[HostName, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (), description="hosts that media may be fetched from: cdn.example.com, *.example.com, example.com:8443"
    )
    drain_s: float = Field(30, ge=0, description="how long a stopping server lets running answers finish")
    cache_dir: Path = Field(default_factory=default_cache_dir)
    data_dir: Path = Field(default_factory=default_data_dir, description="files and batches; one server per folder")
    max_file_mb: float = Field(200, gt=0, description="one uploaded file")
    batch_concurrency: int = Field(1, ge=1, le=256, description="lines of batches answered at once")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def engine(self) -> EngineSettings:
        return EngineSettings(
            precision=self.precision,
            threads=self.threads,
            own_kernels=self.own_kernels,
            kv_bytes=self.kv_cache_mb * MIB if self.kv_cache_mb else None,
            vision_cache_bytes=self.vision_cache_mb * MIB,
            max_running=self.max_concurrency,
            max_waiting=self.max_queue,
            max_waiting_bulk=self.max_bulk_queue,
            max_context=self.max_context,
            cache_dir=self.cache_dir,
        )

    @property
    def media(self) -> MediaSettings:
        return MediaSettings(
            max_image_bytes=int(self.max_image_mb * MIB),
            max_image_side=self.max_image_side,
            max_images=self.max_images,
            max_document_bytes=int(self.max_document_mb * MIB),
            max_pages=self.max_pages,
            max_document_pages=self.max_document_pages,
            page_dpi=self.page_dpi,
            max_video_bytes=int(self.max_video_mb * MIB),
            max_video_frames=self.max_video_frames,
            long_video=self.long_video,
            hosts=self.media_hosts,
        )


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with command-line values (those not None) on top.

    Raises SettingsError naming the variable, the value seen and what is allowed; a misspelt `SIGHTLINE_` name is
    an error that suggests the near match.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(known))}"
            raise SettingsError(f"environment variable {name} is not a Sightline setting{hint}")
    given = {name: value for name, value in overrides.items() if value is not None}
    if "max_concurrency" in given:  # pydantic takes an aliased field by its alias only
        given["SIGHTLINE_MAX_CONCURRENCY"] = given.pop("max_concurrency")
    try:
        return Settings(**given)  # type: ignore[arg-type]  # values are validated here, that is the point
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        name = name if name.isupper() else PREFIX + name.upper()
        raise SettingsError(f"setting {name} is {first.get('input')!r}: {first['msg']}") from None
