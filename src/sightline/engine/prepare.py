"""Turns a conversation into a prompt, and raises every limit error there is: below this nobody checks again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from sightline.engine.constrain import GrammarCompiler
from sightline.engine.prompt import Picture, Prompt, Visual
from sightline.errors import InvalidRequest, PromptTooLong, UnsupportedField
from sightline.media.images import ResizeRule
from sightline.media.sandbox import ImageWorkers
from sightline.model.load import Model
from sightline.model.positions import Grid, token_positions
from sightline.model.prompt import encode_pieces, render
from sightline.settings import MediaSettings
from sightline.types import Conversation, Image, PictureInfo, Sampling, Video

_LONGEST_TOKEN = 128  # bytes; a text longer than this times the context cannot fit, whatever its tokens are


class Preparer:
    """Makes prompts for one model. Pictures are decoded in `workers`, texts are encoded in a thread."""

    def __init__(self, model: Model, workers: ImageWorkers, media: MediaSettings, max_context: int):
        self._model = model
        self._workers = workers
        self._media = media
        self._max_context = max_context
        pixels, vision = model.config.pixels, model.config.vision
        self._rule = ResizeRule(
            min_pixels=pixels.min_pixels, max_pixels=pixels.max_pixels, patch=vision.patch, merge=vision.merge
        )

    @cached_property
    def _grammars(self) -> GrammarCompiler:
        """Made when first needed: for a vocabulary of 150,000 it takes one to two seconds and up to 140 MiB."""
        tokenizer = self._model.tokenizer
        return GrammarCompiler(tokenizer.definition, tokenizer.size, self._model.config.generation.eos)

    async def prepare(self, conversation: Conversation, sampling: Sampling, tenant: str = "") -> Prompt:
        """The prompt for `conversation`; raises InvalidRequest (and its kin) for what cannot be answered."""
        images = self._check(conversation)
        pictures = await asyncio.gather(*(self._picture(image, tenant) for image in images))
        return await asyncio.to_thread(self._assemble, conversation, pictures, sampling, tenant)

    def _check(self, conversation: Conversation) -> list[Image]:
        parts = [part for message in conversation.messages for part in message.parts]
        if not conversation.messages:
            raise InvalidRequest("messages is empty; send at least one user message", param="messages")
        if any(isinstance(part, Video) for part in parts):
            raise UnsupportedField("video is not supported yet; send single frames as images", param="messages")
        images = [part for part in parts if isinstance(part, Image)]
        if len(images) > self._media.max_images:
            raise InvalidRequest(
                f"the request has {len(images)} images, the limit is {self._media.max_images}; send fewer",
                param="messages",
                code="too_many_images",
            )
        size = sum(len(part.text) for part in parts if not isinstance(part, Image | Video))
        if size > self._max_context * _LONGEST_TOKEN:
            raise PromptTooLong(
                f"the text has {size} characters, more than {self._max_context} tokens of context can hold; shorten it",
                param="messages",
            )
        return images

    async def _picture(self, image: Image, tenant: str) -> Picture:
        decoded = await self._workers.decode(image, self._rule)
        height, width = decoded.pixels.shape[:2]
        digest = hashlib.sha256(image.data)
        digest.update(f"{height}x{width} {self._rule} {tenant}".encode())
        tokens = height * width // (self._rule.patch * self._rule.merge) ** 2
        info = PictureInfo(original=decoded.original, resized=(height, width), tokens=tokens)
        return Picture(decoded.pixels[None], digest.digest(), info)

    def _assemble(
        self, conversation: Conversation, pictures: Sequence[Picture], sampling: Sampling, tenant: str
    ) -> Prompt:
        model, vision = self._model, self._model.config.vision
        pieces = render(conversation, style=model.style)
        encoded = encode_pieces(pieces, model.tokenizer, [picture.info.tokens for picture in pictures])
        length = len(encoded.token_ids)
        room = self._max_context - length
        if room < 1:
            shown = sum(picture.info.tokens for picture in pictures)
            raise PromptTooLong(
                f"the prompt has {length} tokens ({shown} of them pictures), the context holds {self._max_context} and "
                "one is needed for the answer; shorten it, send fewer images or lower max_pixels",
                param="messages",
            )
        visuals = [Visual(s.start, s.start + s.count, pictures[s.index]) for s in encoded.spans]
        runs = []
        for visual in visuals:
            height, width = visual.picture.info.resized
            runs.append((visual.start, Grid(1, height // vision.patch, width // vision.patch)))
        positions, following = token_positions(length, runs, vision.merge)
        return Prompt(
            token_ids=np.asarray(encoded.token_ids, np.int32),
            positions=positions,
            next_position=following,
            visuals=tuple(visuals),
            max_new=room,
            constraint=self._grammars.compile(sampling.grammar) if sampling.grammar else None,
            salt=b"tenant " + tenant.encode(),
        )
