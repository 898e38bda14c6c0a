"""Translates between the OpenAI bodies and our values, both ways. Knows no sockets and no engine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sightline import strict_json, wire, wire_parts
from sightline.backends import Answer
from sightline.errors import InvalidRequest, MissingField, UnsupportedField
from sightline.server.inline import Read
from sightline.server.tools import CallReader
from sightline.types import (
    Calls,
    Conversation,
    Delta,
    Document,
    Estimate,
    FinishReason,
    Grammar,
    Image,
    Message,
    PageInfo,
    PictureInfo,
    Progress,
    Role,
    Sampling,
    Text,
    TokenLogprob,
    ToolCall,
    Usage,
    Video,
    VideoInfo,
)

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
LOW_DETAIL_PIXELS = 512 * 512  # what OpenAI scales a picture of low detail down to; 256 tokens of ours
LOWEST_LOGPROB = -9999.0  # JSON has no -Infinity; what a grammar forbids has that

# ---- a request becomes a conversation and its sampling


def conversation(request: wire.ChatRequest, pictures: Sequence[bytes], read: Read) -> Conversation:
    """The messages as our values, their media as the bytes that `read` gives.

    `pictures` are the files of a form; they stand before the text of its one message.
    Raises InvalidRequest naming the message, and what `read` does.
    """
    messages = tuple(_message(message, index, request, read) for index, message in enumerate(request.messages))
    if pictures:
        (message,) = messages
        images = (
            Image(
                data,
                request.min_pixels,
                request.max_pixels,
                request.resized_height,
                request.resized_width,
                param=f"image[{index}]",
            )
            for index, data in enumerate(pictures)
        )
        messages = (replace(message, parts=(*images, *message.parts)),)
    _check_order(messages, request.messages)
    tools = request.tools if request.tools and request.tool_choice != "none" else ()
    _check_choice(request)
    return Conversation(
        messages,
        tuple(json.dumps(tool, ensure_ascii=False) for tool in tools),
        may_drop_turns=request.truncation != "disabled",
    )


def _message(message: wire.ChatMessage, index: int, request: wire.ChatRequest, read: Read) -> Message:
    param = f"messages[{index}].content"
    calls = tuple(ToolCall(c.function.name, c.function.arguments, c.id) for c in message.tool_calls or ())
    if message.role != "assistant" and calls:
        raise InvalidRequest(
            f"messages[{index}]: only an assistant makes tool_calls", param=f"messages[{index}].tool_calls"
        )
    if message.content is None and not calls:
        raise InvalidRequest(f"content must be a string or array, not null ({param})", param=param)
    if isinstance(message.content, tuple):
        parts = tuple(_part(part, f"{param}[{i}]", request, read) for i, part in enumerate(message.content))
    else:
        parts = (Text(message.content),) if message.content else ()
    if message.role == "user" and not any(not isinstance(part, Text) or part.text.strip() for part in parts):
        raise InvalidRequest(f"{param} is empty; send text, or a picture, or both", param=param)
    if message.role not in ("user", "tool") and any(not isinstance(part, Text) for part in parts):
        raise InvalidRequest(f"{param} has a picture; pictures belong into user and tool messages", param=param)
    return Message(ROLES[message.role], parts, calls, message.reasoning_content)


def _part(part: wire_parts.Part, param: str, request: wire.ChatRequest, read: Read) -> Text | Image | Document | Video:
    if isinstance(part, wire_parts.TextPart):
        return Text(part.text)
    least, most = part.min_pixels or request.min_pixels, part.max_pixels or request.max_pixels
    if isinstance(part, wire_parts.FilePart):
        return _document(part, param, least, most, read)
    if isinstance(part, wire_parts.VideoUrlPart | wire_parts.VideoPart):
        if isinstance(part, wire_parts.VideoUrlPart):
            video = clip(part.video_url.url, f"{param}.video_url.url", read)
        else:
            video = clip(part.video, f"{param}.video", read)
        wishes = {name: getattr(part, name) for name in ("fps", "num_frames", "start", "end")}
        return replace(video, **wishes, min_pixels=least, max_pixels=most)
    if isinstance(part, wire_parts.ImageUrlPart):
        data = read(part.image_url.url, f"{param}.image_url.url")
        if part.image_url.detail == "low":
            if least and least > LOW_DETAIL_PIXELS:
                raise InvalidRequest(
                    f"min_pixels is {least}, but detail 'low' is {LOW_DETAIL_PIXELS} pixels at most; send one of them",
                    param=f"{param}.image_url.detail",
                )
            most = min(most or LOW_DETAIL_PIXELS, LOW_DETAIL_PIXELS)
    else:
        data = read(part.image, f"{param}.image")
    sized = request if part.resized_height is None and part.resized_width is None else part
    return Image(data, least, most, sized.resized_height, sized.resized_width, param=param)


def clip(sent: str | Sequence[str], param: str, read: Read) -> Video:
    """A clip as one file or as its frames, with nothing asked of it yet."""
    if isinstance(sent, str):
        return Video(read(sent, param, "video"), param=param)
    if not sent:
        raise InvalidRequest(f"{param} is empty; send at least one frame, or the video as a string", param=param)
    return Video(frames=tuple(read(frame, f"{param}[{index}]") for index, frame in enumerate(sent)), param=param)


def _document(part: wire_parts.FilePart, param: str, least: int | None, most: int | None, read: Read) -> Document:
    if part.file.file_id is not None:
        raise UnsupportedField(
            f"'file_id' is not supported in messages; send the PDF itself as 'file_data' ({param}.file)",
            param=f"{param}.file.file_id",
        )
    if part.file.file_data is None:
        raise MissingField(f"'{param}.file.file_data' is missing; it is required", param=f"{param}.file.file_data")
    return Document(
        read(part.file.file_data, f"{param}.file.file_data", "document"),
        part.pages,
        part.dpi,
        part.password,
        least,
        most,
        param=param,
    )


def _check_order(messages: Sequence[Message], sent: Sequence[wire.ChatMessage]) -> None:
    """What the chat template would drop or misread without a word, we refuse."""
    calls: set[str | None] = set()
    for index, (message, raw) in enumerate(zip(messages, sent, strict=True)):
        if message.role == "system" and index:
            raise InvalidRequest(
                f"messages[{index}] has role '{raw.role}', which only the first message may have; put its text there",
                param=f"messages[{index}].role",
            )
        if message.role == "tool" and (not calls or raw.tool_call_id not in calls | {None}):
            raise InvalidRequest(
                f"messages[{index}] answers tool call {strict_json.shown(raw.tool_call_id)}, which nobody made before",
                param=f"messages[{index}].tool_call_id",
            )
        calls.update(call.id for call in message.tool_calls)
    if messages[-1].role not in ("user", "tool"):
        raise InvalidRequest(
            f"the last message has role '{sent[-1].role}'; the model answers a message of role 'user' or 'tool'",
            param=f"messages[{len(messages) - 1}].role",
        )


def samplings(request: wire.ChatRequest, defaults: Sampling) -> tuple[Sampling, ...]:
    """How each of the `n` answers is drawn: what the request says, on top of the model's defaults.

    A given seed counts up from answer to answer, or all would be the same.
    """
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("'top_logprobs' needs \"logprobs\": true", param="top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("'stream_options' needs \"stream\": true", param="stream_options")
    given: dict[str, Any] = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": None if request.top_k is None else max(request.top_k, 0),  # -1 is another server's word for "all"
        "min_p": request.min_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "repetition_penalty": request.repetition_penalty,
        "logit_bias": request.logit_bias and {int(token): bias for token, bias in request.logit_bias.items()},
        "stop": request.stop,
        "max_tokens": _max_tokens(request),
        "top_logprobs": (request.top_logprobs or 0) if request.logprobs else None,
        "grammar": _calls(request) or _grammar(request.response_format),
        "ignore_eos": request.ignore_eos,
    }
    base = replace(defaults, **{name: value for name, value in given.items() if value is not None})
    if request.seed is None:
        return (base,) * (request.n or 1)
    return tuple(replace(base, seed=(request.seed + i) % 2**64) for i in range(request.n or 1))


def _max_tokens(request: wire.ChatRequest) -> int | None:
    both = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(both) > 1:
        raise InvalidRequest(
            f"max_tokens is {request.max_tokens}, max_completion_tokens is {request.max_completion_tokens}; send one",
            param="max_tokens",
        )
    return next(iter(both), None)


def _grammar(wanted: wire.ResponseFormat | None) -> Grammar | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return Grammar()
    if wanted.json_schema is None:
        raise MissingField(
            "'response_format.json_schema' is missing; it is required", param="response_format.json_schema"
        )
    return Grammar(json.dumps(wanted.json_schema.body, ensure_ascii=False), "response_format.json_schema.schema")


def _check_choice(request: wire.ChatRequest) -> None:
    names = [tool["function"]["name"] for tool in request.tools or ()]
    if len(names) > len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"two tools have the name '{twice}'; names must differ", param="tools")
    if request.tool_choice == "required" and not names:
        raise InvalidRequest("tool_choice is 'required', but there are no tools; send 'tools'", param="tool_choice")
    if isinstance(request.tool_choice, wire.NamedTool) and request.tool_choice.name not in names:
        raise InvalidRequest(
            f"tool_choice names {strict_json.shown(request.tool_choice.name)}, which is not among the tools",
            param="tool_choice",
        )


def _parameters(function: Mapping[str, object]) -> str:
    """The schema of a function's arguments; one that declares none takes none."""
    return json.dumps(function.get("parameters") or {"type": "object", "properties": {}}, ensure_ascii=False)


def _calls(request: wire.ChatRequest) -> Calls | None:
    """The form of an answer that must call tools, or may call one only; None where the model is free.

    A model that may answer with text as well obeys `response_format` first: then it makes no calls at all.
    """
    functions = tuple((tool["function"]["name"], _parameters(tool["function"])) for tool in request.tools or ())
    several = request.parallel_tool_calls is not False
    if isinstance(request.tool_choice, wire.NamedTool):
        named = tuple(function for function in functions if function[0] == request.tool_choice.name)
        return Calls(named, needed=True, several=False, param="tools")
    if request.tool_choice == "required":
        return Calls(functions, needed=True, several=several, param="tools")
    free_text = request.response_format is None or request.response_format.type == "text"
    if functions and request.tool_choice != "none" and not several and free_text:
        return Calls(functions, needed=False, several=False, param="tools")
    return None


# ---- an answer becomes a completion or its chunks


@dataclass(slots=True)
class Outcome:
    """One answer, put together from its deltas."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason = "stop"
    usage: Usage = field(default_factory=Usage)

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.logprobs += delta.logprobs
        self.finish = delta.finish or self.finish
        self.usage = delta.usage or self.usage


@dataclass(frozen=True, slots=True)
class Caption:
    """What every body of one response says about itself. `created` in seconds since 1970.

    The pictures and turns are known once the answers are open.
    """

    request_id: str
    model: str
    created: int
    pictures: tuple[PictureInfo, ...] = ()
    dropped_turns: int = 0
    videos: tuple[VideoInfo, ...] = ()
    degraded: bool = False

    def of(self, answer: Answer) -> Caption:
        """The same with what is known of an answer that is open."""
        return replace(
            self,
            model=answer.model,
            degraded=answer.degraded,
            pictures=answer.pictures,
            videos=answer.videos,
            dropped_turns=answer.dropped_turns,
        )

    @property
    def id(self) -> str:
        return "chatcmpl-" + self.request_id.removeprefix("req_")


def completion(
    caption: Caption, outcomes: Sequence[Outcome], total_ms: float, *, tools: bool, logprobs: bool
) -> wire.ChatCompletion:
    """The body of a whole answer; with `tools`, calls in the text become `tool_calls`."""
    usages = [outcome.usage for outcome in outcomes]
    return wire.ChatCompletion(
        id=caption.id,
        object="chat.completion",
        created=caption.created,
        model=caption.model,
        choices=tuple(_choice(i, outcome, tools, logprobs) for i, outcome in enumerate(outcomes)),
        usage=usage(usages, total_ms),
        sightline=report(caption, usages),
    )


def _choice(index: int, outcome: Outcome, tools: bool, logprobs: bool) -> wire.Choice:
    reader = CallReader(tools=tools)
    text, calls = reader.push(outcome.text)
    text += reader.flush()
    message = wire.AnswerMessage(role="assistant", content=text, refusal=None)
    if calls:
        made = tuple(map(tool_call, calls))
        message = wire.AnswerMessage(role="assistant", content=text or None, refusal=None, tool_calls=made)
    shown = _logprobs(outcome.logprobs) if logprobs else None
    return wire.Choice(index=index, message=message, logprobs=shown, finish_reason=reader.finish(outcome.finish))


def tool_call(call: ToolCall) -> wire.ToolCall:
    """A call the model made, as it goes over the wire."""
    function = wire.CalledFunction(name=call.name, arguments=call.arguments)
    return wire.ToolCall(id=call.id, type="function", function=function)


def usage(usages: Sequence[Usage], total_ms: float) -> wire.Usage:
    """The cost of all answers to one prompt: the prompt counts once, the answers add up."""
    prompt, completed = usages[0], sum(u.completion_tokens for u in usages)
    return wire.Usage(
        prompt_tokens=prompt.prompt_tokens,
        completion_tokens=completed,
        total_tokens=prompt.prompt_tokens + completed,
        total_time_ms=round(total_ms),
        prompt_tokens_details=wire.PromptTokensDetails(
            cached_tokens=prompt.cached_tokens, image_tokens=prompt.image_tokens
        ),
    )


def report(caption: Caption, usages: Sequence[Usage]) -> wire.Report:
    """Our own addition to the answer; the times are those of the slowest of the answers."""
    return wire.Report(
        model=caption.model,
        degraded=caption.degraded,
        queue_ms=round(max(u.queue_ms for u in usages), 1),
        vision_ms=round(max(u.vision_ms for u in usages), 1),
        prefill_ms=round(max(u.prefill_ms for u in usages), 1),
        decode_ms=round(max(u.decode_ms for u in usages), 1),
        images=tuple(wire.Picture.model_validate(_sizes(picture)) for picture in caption.pictures),
        cached_images=len(caption.pictures) - max(u.encoded_images for u in usages),
        dropped_turns=caption.dropped_turns,
        **videos(caption.videos),
    )


def _sizes(picture: PictureInfo) -> dict[str, object]:
    (height, width), (resized_height, resized_width) = picture.original, picture.resized
    return {
        "height": height,
        "width": width,
        "resized_height": resized_height,
        "resized_width": resized_width,
        "tokens": picture.tokens,
        **(_page(picture.page) if picture.page else {}),
    }


def _page(page: PageInfo) -> dict[str, object]:
    """What a page of a document says besides its sizes; nothing of cleaning where none was done."""
    done = {
        "turned_degrees": page.turned,
        "denoised": page.denoised,
        "binarised": page.binarised,
        "missing_letters": page.missing,
    }
    return {"page": page.number, **{name: value for name, value in done.items() if value}}


def estimate(model: str, found: Estimate, max_tokens: int) -> wire.Estimate:
    """What the answer would take; `max_tokens` as the request has it."""
    return wire.Estimate(
        object="estimate",
        model=model,
        prompt_tokens=found.prompt_tokens,
        image_tokens=sum(p.tokens for p in found.pictures) + sum(v.tokens for v in found.videos),
        max_tokens=min(max_tokens, found.room),
        dropped_turns=found.dropped_turns,
        images=tuple(
            wire.EstimatedPicture.model_validate(_sizes(picture) | {"resized": picture.original != picture.resized})
            for picture in found.pictures
        ),
        seconds_to_first_token=None if found.first_token_s is None else round(found.first_token_s, 3),
        unmeasured=found.unmeasured,
        peak_memory_bytes=found.peak_bytes,
        **videos(found.videos),
    )


def chunk(
    caption: Caption,
    index: int,
    delta: wire.ChunkDelta,
    *,
    logprobs: Sequence[TokenLogprob] = (),
    finish: FinishReason | None = None,
) -> wire.ChatChunk:
    """One chunk of a streamed answer; the caller adds `usage` and `sightline` where they belong."""
    choice = wire.ChunkChoice(
        index=index, delta=delta, logprobs=_logprobs(logprobs) if logprobs else None, finish_reason=finish
    )
    return wire.ChatChunk(
        id=caption.id, object="chat.completion.chunk", created=caption.created, model=caption.model, choices=(choice,)
    )


def videos(infos: Sequence[VideoInfo]) -> dict[str, tuple[wire.Video, ...]]:
    """The field `videos` of a report, where there is any."""
    return {"videos": tuple(map(_video_report, infos))} if infos else {}


def _video_report(info: VideoInfo) -> wire.Video:
    (height, width), (resized_height, resized_width) = info.original, info.resized
    return wire.Video(
        width=width,
        height=height,
        resized_width=resized_width,
        resized_height=resized_height,
        tokens=info.tokens,
        frames=len(info.times),
        seconds=tuple(round(second, 3) for second in info.times),
        timestamps=tuple(round(second, 1) for second in info.timestamps),
        trimmed=info.trimmed,
    )


def progress(seen: Progress) -> wire.Progress:
    """Where an answer is, as it goes over the wire."""
    wait_s = None if seen.wait_s is None else round(seen.wait_s, 2)
    return wire.Progress(stage=seen.stage, place=seen.place, wait_s=wait_s, done=seen.done, total=seen.total)


def progress_chunk(caption: Caption, seen: Progress) -> wire.ChatChunk:
    """A chunk that only says where the answer is; it has no choices, as the one with the usage."""
    return wire.ChatChunk(
        id=caption.id,
        object="chat.completion.chunk",
        created=caption.created,
        model=caption.model,
        choices=(),
        sightline=wire.ProgressReport(progress=progress(seen)),
    )


def usage_chunk(caption: Caption, cost: wire.Usage) -> wire.ChatChunk:
    """The last chunk of a stream that asked for its usage; OpenAI gives it no choices."""
    return wire.ChatChunk(
        id=caption.id,
        object="chat.completion.chunk",
        created=caption.created,
        model=caption.model,
        choices=(),
        usage=cost,
    )


def _logprobs(tokens: Iterable[TokenLogprob]) -> wire.Logprobs:
    content = tuple(
        wire.Logprob(
            token=t.token,
            logprob=max(t.logprob, LOWEST_LOGPROB),
            bytes=tuple(t.utf8),
            top_logprobs=tuple(
                wire.RivalLogprob(token=n, logprob=max(lp, LOWEST_LOGPROB), bytes=tuple(raw)) for n, raw, lp in t.top
            ),
        )
        for t in tokens
    )
    return wire.Logprobs(content=content, refusal=None)


def picture_bytes(asked: Conversation) -> list[int]:
    """The encoded size of each picture, document and clip, for the access log."""
    parts = [part for message in asked.messages for part in message.parts]
    media = [part for part in parts if isinstance(part, Image | Document | Video)]
    return [len(part.data) + sum(map(len, part.frames if isinstance(part, Video) else ())) for part in media]
