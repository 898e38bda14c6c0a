"""Turns a conversation into a prompt, and raises every limit error there is: below this nobody checks again."""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from sightline.engine.constrain import Constraint, GrammarCompiler
from sightline.engine.prompt import Clip, Picture, Prompt, Visual
from sightline.engine.turns import count_turns, without_oldest
from sightline.errors import InvalidRequest, InvalidSchema, PromptTooLong, TooManyPages
from sightline.media.clips import ClipRule, timestamps
from sightline.media.decoders import Decoders
from sightline.media.images import ResizeRule
from sightline.model.load import Model
from sightline.model.positions import Grid, token_positions
from sightline.model.prompt import EncodedPrompt, Moment, encode_pieces, render
from sightline.settings import MediaSettings
from sightline.types import (
    Calls,
    Conversation,
    Document,
    Grammar,
    Image,
    Page,
    Part,
    PictureInfo,
    Sampling,
    Text,
    Video,
    VideoInfo,
)

_LONGEST_TOKEN = 128  # bytes; a text longer than this times the context cannot fit, whatever its tokens are
# When turns must go, so many go that the answer has room for `max_tokens`, at most this and a quarter of the context:
# a client that asks for 100,000 tokens to be safe must not lose its whole history for it.
_ANSWER_ROOM = 512


class Preparer:
    """Makes prompts for one model. Pictures are decoded in `workers`, texts are encoded in a thread."""

    def __init__(self, model: Model, workers: Decoders, media: MediaSettings, max_context: int):
        self._model = model
        self._workers = workers
        self._media = media
        self._max_context = max_context
        pixels, vision = model.config.pixels, model.config.vision
        self._rule = ResizeRule(
            min_pixels=pixels.min_pixels, max_pixels=pixels.max_pixels, patch=vision.patch, merge=vision.merge
        )
        video = model.config.video
        token_pixels = vision.temporal_patch * (vision.patch * vision.merge) ** 2
        self._clip_rule = ClipRule(
            min_pixels=video.min_pixels,
            max_pixels=min(video.max_pixels, max_context // 2 * token_pixels),  # a clip leaves room for its question
            fps=video.fps,
            min_frames=video.min_frames,
            max_frames=video.max_frames,
            patch=vision.patch,
            merge=vision.merge,
            temporal=vision.temporal_patch,
        )

    @cached_property
    def _grammars(self) -> GrammarCompiler:
        """Made when first needed: for a vocabulary of 150,000 it takes one to two seconds and up to 140 MiB."""
        tokenizer = self._model.tokenizer
        return GrammarCompiler(tokenizer.definition, tokenizer.size, self._model.config.generation.eos)

    async def prepare(self, conversation: Conversation, sampling: Sampling, tenant: str = "") -> Prompt:
        """The prompt for `conversation`; raises InvalidRequest (and its kin) for what cannot be answered."""
        conversation = await self._with_pages(conversation)
        decoding = [asyncio.ensure_future(self._decoded(part, tenant)) for part in self._check(conversation)]
        try:
            visuals = await asyncio.gather(*decoding)
        except BaseException:
            for task in decoding:  # a refused request must not keep the decoders from others
                task.cancel()
            raise
        return await asyncio.to_thread(self._assemble, conversation, visuals, sampling, tenant)

    async def pages(self, document: Document, most: int) -> tuple[Page, ...]:
        """The pages that a document names, at most so many."""
        return await self._workers.documents.pages(document, most)

    async def _with_pages(self, conversation: Conversation) -> Conversation:
        """The conversation with its documents' pages in their places, each with its number when there are several."""
        room, messages = self._media.max_pages, []
        for message in conversation.messages:
            parts: list[Part] = []
            for part in message.parts:
                if not isinstance(part, Document):
                    parts.append(part)
                    continue
                try:
                    pages = await self.pages(part, room)
                except TooManyPages:
                    if room == self._media.max_pages:
                        raise
                    raise TooManyPages(
                        f"the documents have more than {self._media.max_pages} pages together, the limit of one "
                        "request; name fewer with 'pages', or ask about fewer documents at once",
                        param=part.param,
                    ) from None
                room -= len(pages)
                for page in pages:
                    parts += [Text(f"Page {page.number}: "), page] if len(pages) > 1 else [page]
            messages.append(replace(message, parts=tuple(parts)))
        return replace(conversation, messages=tuple(messages))

    def _check(self, conversation: Conversation) -> list[Image | Page | Video]:
        if not conversation.messages:
            raise InvalidRequest("messages is empty; send at least one user message", param="messages")
        media = _media(conversation)
        videos = sum(isinstance(part, Video) for part in media)
        for count, most, kind in (
            (len(media) - videos, self._media.max_images, "images"),
            (videos, self._media.max_videos, "videos"),
        ):
            if count > most:
                raise InvalidRequest(
                    f"the request has {count} {kind}, the limit is {most}; send fewer",
                    param="messages",
                    code=f"too_many_{kind}",
                )
        least = without_oldest(conversation, _droppable(conversation))
        if not self._could_fit(least):
            raise PromptTooLong(
                f"the text has {_characters(least)} characters, more than {self._max_context} tokens of context can "
                "hold; shorten it",
                param="messages",
            )
        return media

    async def _decoded(self, part: Image | Page | Video, tenant: str) -> Picture | Clip:
        return await (self._clip(part, tenant) if isinstance(part, Video) else self._picture(part, tenant))

    async def _clip(self, video: Video, tenant: str) -> Clip:
        decoded, rule = await self._workers.videos.decode(video, self._clip_rule), self._clip_rule
        file = await asyncio.to_thread(hashlib.sha256, b"".join(video.frames) or video.data)
        frames, height, width = decoded.pixels.shape[:3]
        patches = []
        for first in range(0, frames, rule.temporal):
            digest, part = file.copy(), slice(first, first + rule.temporal)
            digest.update(f"{height}x{width} at {decoded.seconds[part]} {rule} {tenant}".encode())
            pixels = decoded.pixels[part]
            missing = np.repeat(pixels[-1:], rule.temporal - len(pixels), 0)  # the reference repeats the last frame
            patches.append(Picture(np.concatenate([pixels, missing]), digest.digest(), None))
        info = VideoInfo(
            original=decoded.original,
            resized=(height, width),
            tokens=len(patches) * height * width // (rule.patch * rule.merge) ** 2,
            times=decoded.seconds,
            timestamps=timestamps(decoded.seconds, rule.temporal),
            trimmed=decoded.trimmed,
        )
        return Clip(tuple(patches), info)

    async def _picture(self, image: Image | Page, tenant: str) -> Picture:
        if isinstance(image, Page):
            decoded, page = await self._workers.documents.draw(image, self._rule)
            digest = await asyncio.to_thread(hashlib.sha256, image.document.data)
            digest.update(f"page {image.number} {decoded.original}".encode())
        else:
            decoded, page = await self._workers.images.decode(image, self._rule), None
            digest = hashlib.sha256(image.data)
        height, width = decoded.pixels.shape[:2]
        digest.update(f"{height}x{width} {self._rule} {tenant}".encode())
        tokens = height * width // (self._rule.patch * self._rule.merge) ** 2
        info = PictureInfo(original=decoded.original, resized=(height, width), tokens=tokens, page=page)
        return Picture(decoded.pixels[None], digest.digest(), info)

    def _assemble(
        self, conversation: Conversation, seen: Sequence[Picture | Clip], sampling: Sampling, tenant: str
    ) -> Prompt:
        vision = self._model.config.vision
        dropped, encoded = self._fitted(conversation, seen, sampling.max_tokens)
        length = len(encoded.token_ids)
        seen = seen[_media_in_oldest(conversation, dropped) :]
        pictures = [iter(_pictures(visual)) for visual in seen]
        visuals = [Visual(s.start, s.start + s.count, next(pictures[s.index])) for s in encoded.spans]
        runs = []
        for visual in visuals:
            height, width = visual.picture.pixels.shape[1:3]
            runs.append((visual.start, Grid(1, height // vision.patch, width // vision.patch)))
        positions, following = token_positions(length, runs, vision.merge)
        return Prompt(
            token_ids=np.asarray(encoded.token_ids, np.int32),
            positions=positions,
            next_position=following,
            visuals=tuple(visuals),
            max_new=self._max_context - length,
            constraint=self._constraint(sampling.grammar) if sampling.grammar else None,
            salt=b"tenant " + tenant.encode(),
            dropped_turns=dropped,
            videos=tuple(visual.info for visual in seen if isinstance(visual, Clip)),
        )

    def _constraint(self, grammar: Grammar | Calls) -> Constraint:
        try:
            return self._grammars.compile(grammar)
        except InvalidSchema as error:
            error.param = grammar.param
            raise

    def _fitted(
        self, conversation: Conversation, seen: Sequence[Picture | Clip], max_tokens: int
    ) -> tuple[int, EncodedPrompt]:
        """How many of the oldest turns must go, and the tokens of the rest. Raises PromptTooLong."""
        if self._could_fit(conversation):
            encoded = self._encode(conversation, seen, 0)
            if len(encoded.token_ids) < self._max_context:
                return 0, encoded
        room = min(max_tokens, _ANSWER_ROOM, self._max_context // 4)
        most = _droppable(conversation)

        def enough(dropped: int) -> bool:
            return (
                self._could_fit(without_oldest(conversation, dropped))
                and len(self._encode(conversation, seen, dropped).token_ids) + room <= self._max_context
            )

        dropped = bisect_left(range(most), True, key=enough)
        encoded = self._encode(conversation, seen, dropped)
        length = len(encoded.token_ids)
        if length >= self._max_context:
            shown = sum(span.count for span in encoded.spans)
            allowed = "" if conversation.may_drop_turns else ', or let the oldest turns go ("truncation": "auto")'
            smaller = ", send fewer images or lower max_pixels" if shown else ""
            raise PromptTooLong(
                f"the prompt has {length} tokens ({shown} of them pictures), the context holds {self._max_context} and "
                f"one is needed for the answer; shorten it{smaller}{allowed}",
                param="messages",
            )
        return dropped, encoded

    def _encode(self, conversation: Conversation, seen: Sequence[Picture | Clip], dropped: int) -> EncodedPrompt:
        kept = [self._tokens(visual) for visual in seen[_media_in_oldest(conversation, dropped) :]]
        pieces = render(without_oldest(conversation, dropped), style=self._model.style)
        return encode_pieces(pieces, self._model.tokenizer, kept)

    def _tokens(self, visual: Picture | Clip) -> int | tuple[Moment, ...]:
        """How many visual tokens a picture takes, or each moment of a clip."""
        _, height, width, _ = _pictures(visual)[0].pixels.shape
        tokens = height * width // (self._rule.patch * self._rule.merge) ** 2
        return tokens if isinstance(visual, Picture) else tuple(Moment(s, tokens) for s in visual.info.timestamps)

    def _could_fit(self, conversation: Conversation) -> bool:
        """Whether its text is short enough to be worth encoding."""
        return _characters(conversation) <= self._max_context * _LONGEST_TOKEN


def _droppable(conversation: Conversation) -> int:
    return count_turns(conversation) - 1 if conversation.may_drop_turns else 0


def _media_in_oldest(conversation: Conversation, turns: int) -> int:
    """How many pictures and clips go with the oldest turns. The server refuses those in the system message."""
    return len(_media(conversation)) - len(_media(without_oldest(conversation, turns)))


def _media(conversation: Conversation) -> list[Image | Page | Video]:
    parts = (part for message in conversation.messages for part in message.parts)
    return [part for part in parts if isinstance(part, Image | Page | Video)]


def _pictures(visual: Picture | Clip) -> tuple[Picture, ...]:
    return (visual,) if isinstance(visual, Picture) else visual.patches


def _characters(conversation: Conversation) -> int:
    """The length of all text in it, tools and calls included."""
    size = sum(map(len, conversation.tools))
    for message in conversation.messages:
        size += sum(len(part.text) for part in message.parts if isinstance(part, Text))
        size += sum(len(call.arguments) for call in message.tool_calls) + len(message.reasoning or "")
    return size
