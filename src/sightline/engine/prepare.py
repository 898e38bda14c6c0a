"""Turns a conversation into a prompt, and raises every limit error there is: below this nobody checks again."""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from sightline.engine.constrain import GrammarCompiler
from sightline.engine.prompt import Picture, Prompt, Visual
from sightline.engine.turns import count_turns, without_oldest
from sightline.errors import InvalidRequest, PromptTooLong, UnsupportedField
from sightline.media.images import ResizeRule
from sightline.media.sandbox import ImageWorkers
from sightline.model.load import Model
from sightline.model.positions import Grid, token_positions
from sightline.model.prompt import EncodedPrompt, encode_pieces, render
from sightline.settings import MediaSettings
from sightline.types import Conversation, Image, PictureInfo, Sampling, Text, Video

_LONGEST_TOKEN = 128  # bytes; a text longer than this times the context cannot fit, whatever its tokens are
# When turns must go, so many go that the answer has room for `max_tokens`, at most this and a quarter of the context:
# a client that asks for 100,000 tokens to be safe must not lose its whole history for it.
_ANSWER_ROOM = 512


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
        decoding = [asyncio.ensure_future(self._picture(image, tenant)) for image in images]
        try:
            pictures = await asyncio.gather(*decoding)
        except BaseException:
            for task in decoding:  # a refused request must not keep the decoders from others
                task.cancel()
            raise
        return await asyncio.to_thread(self._assemble, conversation, pictures, sampling, tenant)

    def _check(self, conversation: Conversation) -> list[Image]:
        parts = [part for message in conversation.messages for part in message.parts]
        if not conversation.messages:
            raise InvalidRequest("messages is empty; send at least one user message", param="messages")
        if any(isinstance(part, Video) for part in parts):
            raise UnsupportedField("video is not supported yet; send single frames as images", param="messages")
        images = _images(conversation)
        if len(images) > self._media.max_images:
            raise InvalidRequest(
                f"the request has {len(images)} images, the limit is {self._media.max_images}; send fewer",
                param="messages",
                code="too_many_images",
            )
        least = without_oldest(conversation, _droppable(conversation))
        if not self._could_fit(least):
            raise PromptTooLong(
                f"the text has {_characters(least)} characters, more than {self._max_context} tokens of context can "
                "hold; shorten it",
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
        vision = self._model.config.vision
        dropped, encoded = self._fitted(conversation, pictures, sampling.max_tokens)
        length = len(encoded.token_ids)
        pictures = pictures[_images_in_oldest(conversation, dropped) :]
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
            max_new=self._max_context - length,
            constraint=self._grammars.compile(sampling.grammar) if sampling.grammar else None,
            salt=b"tenant " + tenant.encode(),
            dropped_turns=dropped,
        )

    def _fitted(
        self, conversation: Conversation, pictures: Sequence[Picture], max_tokens: int
    ) -> tuple[int, EncodedPrompt]:
        """How many of the oldest turns must go, and the tokens of the rest. Raises PromptTooLong."""
        if self._could_fit(conversation):
            encoded = self._encode(conversation, pictures, 0)
            if len(encoded.token_ids) < self._max_context:
                return 0, encoded
        room = min(max_tokens, _ANSWER_ROOM, self._max_context // 4)
        most = _droppable(conversation)

        def enough(dropped: int) -> bool:
            return (
                self._could_fit(without_oldest(conversation, dropped))
                and len(self._encode(conversation, pictures, dropped).token_ids) + room <= self._max_context
            )

        dropped = bisect_left(range(most), True, key=enough)
        encoded = self._encode(conversation, pictures, dropped)
        length = len(encoded.token_ids)
        if length >= self._max_context:
            shown = sum(span.count for span in encoded.spans)
            allowed = "" if conversation.may_drop_turns else ', or let the oldest turns go ("truncation": "auto")'
            raise PromptTooLong(
                f"the prompt has {length} tokens ({shown} of them pictures), the context holds {self._max_context} and "
                f"one is needed for the answer; shorten it, send fewer images or lower max_pixels{allowed}",
                param="messages",
            )
        return dropped, encoded

    def _encode(self, conversation: Conversation, pictures: Sequence[Picture], dropped: int) -> EncodedPrompt:
        kept = pictures[_images_in_oldest(conversation, dropped) :]
        pieces = render(without_oldest(conversation, dropped), style=self._model.style)
        return encode_pieces(pieces, self._model.tokenizer, [picture.info.tokens for picture in kept])

    def _could_fit(self, conversation: Conversation) -> bool:
        """Whether its text is short enough to be worth encoding."""
        return _characters(conversation) <= self._max_context * _LONGEST_TOKEN


def _droppable(conversation: Conversation) -> int:
    return count_turns(conversation) - 1 if conversation.may_drop_turns else 0


def _images_in_oldest(conversation: Conversation, turns: int) -> int:
    """How many pictures go with the oldest turns. The server refuses them in the system message, which stays."""
    return len(_images(conversation)) - len(_images(without_oldest(conversation, turns)))


def _images(conversation: Conversation) -> list[Image]:
    return [part for message in conversation.messages for part in message.parts if isinstance(part, Image)]


def _characters(conversation: Conversation) -> int:
    """The length of all text in it, tools and calls included."""
    size = sum(map(len, conversation.tools))
    for message in conversation.messages:
        size += sum(len(part.text) for part in message.parts if isinstance(part, Text))
        size += sum(len(call.arguments) for call in message.tool_calls) + len(message.reasoning or "")
    return size
