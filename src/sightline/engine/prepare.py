"""Turns a conversation into a prompt, and raises every limit error there is: below this nobody checks again."""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_left
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, groupby
from typing import Any, TypeVar

import numpy as np

from sightline.engine.constrain import Constraint, GrammarCompiler
from sightline.engine.prompt import Clip, Picture, Prompt, Visual
from sightline.engine.turns import count_turns, without_oldest
from sightline.errors import DamagedImage, InvalidRequest, InvalidSchema, PromptTooLong, TooManyPages
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

T = TypeVar("T")
_Count = int | tuple[Moment, ...]  # visual tokens of a picture; each moment of a clip

_LONGEST_TOKEN = 128  # bytes; a text longer than this times the context cannot fit, whatever its tokens are
# When turns must go, so many go that the answer has room for `max_tokens`, at most this and a quarter of the context:
# a client that asks for 100,000 tokens to be safe must not lose its whole history for it.
_ANSWER_ROOM = 512


@dataclass(frozen=True, slots=True)
class _Plan:
    """A prompt that fits, before its pictures are decoded."""

    dropped: int  # oldest turns that are left out
    encoded: EncodedPrompt
    constraint: Constraint | None


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
        """The prompt for `conversation`; raises InvalidRequest (and its kin) for what cannot be answered.

        Pictures and pages are measured first, from their headers, so that what does not fit is told before any of them
        is decoded, and those of turns that are left out never are. Clips are decoded to be measured: nothing less shows
        which frames there are, and each is held to half of the context.
        """
        conversation = await self._with_pages(conversation)
        media = self._check(conversation)
        measured = list(chain.from_iterable(await _all(self._measurements(media, tenant))))
        plan = await asyncio.to_thread(self._planned, conversation, measured, sampling)
        kept = list(zip(media, measured, strict=True))[_media_in_oldest(conversation, plan.dropped) :]
        visuals = await _all(self._decoded(part, tokens, tenant) for part, tokens in kept)
        return await asyncio.to_thread(self._assembled, plan, visuals, tenant)

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

    def _measurements(
        self, media: Sequence[Image | Page | Video], tenant: str
    ) -> Iterator[Coroutine[Any, Any, list[int | Clip]]]:
        """One for each picture and clip, and for the pages of each document together: it is opened once for them."""
        for document, group in groupby(media, lambda part: part.document if isinstance(part, Page) else None):
            if document:
                yield self._measured_pages([part for part in group if isinstance(part, Page)])
            else:
                yield from (self._measured(part, tenant) for part in group if not isinstance(part, Page))

    async def _measured(self, part: Image | Video, tenant: str) -> list[int | Clip]:
        """The visual tokens of a picture; or a clip."""
        if isinstance(part, Video):
            return [await self._clip(part, tenant)]
        return [self._tokens(*await self._workers.images.measure(part, self._rule))]

    async def _measured_pages(self, pages: Sequence[Page]) -> list[int | Clip]:
        """The visual tokens of each of these pages of one document."""
        return [self._tokens(*size) for size in await self._workers.documents.measure(pages, self._rule)]

    async def _decoded(self, part: Image | Page | Video, measured: int | Clip, tenant: str) -> Picture | Clip:
        if isinstance(measured, Clip):
            return measured
        assert not isinstance(part, Video)
        picture = await self._picture(part, tenant)
        if self._tokens(*picture.pixels.shape[1:3]) != measured:  # the plan was made for another size
            raise DamagedImage(
                "Invalid image data: cannot decode image (its header says another size than its pixels have; save it "
                "again as JPEG or PNG)",
                param=part.param if isinstance(part, Image) else part.document.param,
            )
        return picture

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
            tokens=len(patches) * self._tokens(height, width),
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
        tokens = self._tokens(height, width)
        info = PictureInfo(original=decoded.original, resized=(height, width), tokens=tokens, page=page)
        return Picture(decoded.pixels[None], digest.digest(), info)

    def _tokens(self, height: int, width: int) -> int:
        """Visual tokens of a picture that the model sees at this size in pixels."""
        return height * width // (self._rule.patch * self._rule.merge) ** 2

    def _planned(self, conversation: Conversation, measured: Sequence[int | Clip], sampling: Sampling) -> _Plan:
        """All of a prompt but its pixels. Raises PromptTooLong and InvalidSchema."""
        counts = [m if isinstance(m, int) else _moments(m, self._tokens(*m.info.resized)) for m in measured]
        dropped, encoded = self._fitted(conversation, counts, sampling.max_tokens)
        return _Plan(dropped, encoded, self._constraint(sampling.grammar) if sampling.grammar else None)

    def _assembled(self, plan: _Plan, seen: Sequence[Picture | Clip], tenant: str) -> Prompt:
        vision, encoded = self._model.config.vision, plan.encoded
        length = len(encoded.token_ids)
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
            constraint=plan.constraint,
            salt=b"tenant " + tenant.encode(),
            dropped_turns=plan.dropped,
            videos=tuple(visual.info for visual in seen if isinstance(visual, Clip)),
        )

    def _constraint(self, grammar: Grammar | Calls) -> Constraint:
        try:
            return self._grammars.compile(grammar)
        except InvalidSchema as error:
            error.param = grammar.param
            raise

    def _fitted(
        self, conversation: Conversation, counts: Sequence[_Count], max_tokens: int
    ) -> tuple[int, EncodedPrompt]:
        """How many of the oldest turns must go, and the tokens of the rest. Raises PromptTooLong."""
        if self._could_fit(conversation):
            encoded = self._encode(conversation, counts, 0)
            if len(encoded.token_ids) < self._max_context:
                return 0, encoded
        room = min(max_tokens, _ANSWER_ROOM, self._max_context // 4)
        most = _droppable(conversation)

        def enough(dropped: int) -> bool:
            return (
                self._could_fit(without_oldest(conversation, dropped))
                and len(self._encode(conversation, counts, dropped).token_ids) + room <= self._max_context
            )

        dropped = bisect_left(range(most), True, key=enough)
        encoded = self._encode(conversation, counts, dropped)
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

    def _encode(self, conversation: Conversation, counts: Sequence[_Count], dropped: int) -> EncodedPrompt:
        pieces = render(without_oldest(conversation, dropped), style=self._model.style)
        return encode_pieces(pieces, self._model.tokenizer, counts[_media_in_oldest(conversation, dropped) :])

    def _could_fit(self, conversation: Conversation) -> bool:
        """Whether its text is short enough to be worth encoding."""
        return _characters(conversation) <= self._max_context * _LONGEST_TOKEN


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in their order. The first that fails ends the others: they must not keep the decoders."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise


def _moments(clip: Clip, tokens: int) -> tuple[Moment, ...]:
    return tuple(Moment(seconds, tokens) for seconds in clip.info.timestamps)


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
