"""A prompt: what a conversation becomes once it is tokens, positions and pictures. Only `prepare` makes one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sightline.engine.constrain import Constraint
from sightline.types import PictureInfo, VideoInfo


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """Decoded pixels [frames, H, W, 3] and the digest of everything that decided them.

    `info` is None for what belongs to a clip: a few frames of it that make one temporal patch.
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    digest: bytes
    info: PictureInfo | None


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A clip as its temporal patches, and what became of it."""

    patches: tuple[Picture, ...]
    info: VideoInfo


@dataclass(frozen=True, slots=True, eq=False)
class Visual:
    """A picture's place in the prompt: tokens `start` to `end`."""

    start: int
    end: int
    picture: Picture

    @property
    def digest(self) -> bytes:
        return self.picture.digest


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Token ids [T] with M-RoPE positions [3, T], the position of the first answer token, and the pictures in order;
    the temporal patches of clips stand among them.

    `max_new`: answer tokens there is room for. `salt` keeps cached blocks of different tenants apart. `dropped_turns`:
    how many of the conversation's oldest turns are missing, because the context does not hold them.
    """

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    next_position: int
    visuals: tuple[Visual, ...]
    max_new: int
    constraint: Constraint | None = None
    salt: bytes = b"-"
    dropped_turns: int = 0
    videos: tuple[VideoInfo, ...] = ()

    @property
    def pictures(self) -> tuple[PictureInfo, ...]:
        return tuple(visual.picture.info for visual in self.visuals if visual.picture.info)

    def visuals_from(self, token: int) -> tuple[Visual, ...]:
        """The pictures that have tokens at `token` or behind it."""
        return tuple(v for v in self.visuals if v.end > token)

    @property
    def largest_visual(self) -> int:
        """Tokens of the largest picture or temporal patch; 0 without any."""
        return max((v.end - v.start for v in self.visuals), default=0)

    @property
    def image_tokens(self) -> int:
        return sum(v.end - v.start for v in self.visuals)
