"""Turns a task and what its caller sent into a conversation and its sampling. Knows no HTTP and no particular task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sightline.errors import InvalidRequest, MissingField
from sightline.tasks.catalogue import Task
from sightline.types import Conversation, Grammar, Image, Message, Sampling, Text, Video


def conversation(
    task: Task, media: Sequence[Image | Video], text: str, *, instructed: bool, schema: str | None = None
) -> Conversation:
    """The messages of one call: the task's instructions if `instructed`, the pictures or clips, then the question.

    `schema` is the caller's, as text. Raises InvalidRequest naming `images`, `videos` or `text`.
    """
    field, one, most = (
        ("videos", "video", task.max_videos) if task.max_videos else ("images", "picture", task.max_images)
    )
    if not media:
        raise InvalidRequest(f"{field} is empty; task '{task.name}' needs a {one}", param=field)
    if most is not None and len(media) > most:
        raise InvalidRequest(
            f"{field} has {len(media)} {one}s, task '{task.name}' takes {most}; call it for each",
            param=field,
            code=f"too_many_{field}",
        )
    text = text.strip()
    question = task.template.replace("{}", text) if text else task.question
    if question is None:
        raise InvalidRequest(f"prompt is empty; task '{task.name}' needs 'text'", param="text")
    user = Message("user", (*media, Text(question)))
    return Conversation((instructions(task, schema), user) if instructed else (user,))


def instructions(task: Task, schema: str | None = None) -> Message:
    """The system message: role, steps, output form."""
    steps = [f"{number}. {step}" for number, step in enumerate(task.steps, 1)]
    return Message("system", (Text("\n".join([task.role, *steps, task.form.replace("{schema}", schema or "")])),))


def sampling(
    task: Task,
    defaults: Sampling,
    *,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    schema: str | None,
) -> Sampling:
    """How the answer is drawn: the caller's word, then the task's, then the model's `defaults`.

    `schema` is the caller's JSON schema as text. Raises MissingField or InvalidRequest naming `options.schema`.
    """
    if task.callers_schema and schema is None:
        raise MissingField(
            f"'options.schema' is missing; task '{task.name}' needs a JSON schema", param="options.schema"
        )
    if schema is not None and not task.callers_schema:
        raise InvalidRequest(
            f"options.schema is not used by task '{task.name}'; leave it out or use task 'extract'",
            param="options.schema",
        )
    schema = schema or task.schema
    if temperature is None:
        temperature = 0.0 if task.greedy else defaults.temperature
    return replace(
        defaults,
        max_tokens=max_tokens or task.max_tokens,
        temperature=temperature,
        top_p=defaults.top_p if top_p is None else top_p,
        top_logprobs=0,  # confidence is made of them
        grammar=None if schema is None else Grammar(schema, "options.schema"),
    )
