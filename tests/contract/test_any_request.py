"""Requests by the thousand, which schemathesis makes of the description, on a live port: none surprises its caller."""

import base64
import itertools
import json
from collections import Counter

import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from sightline.server import describe
from sightline.server.bodies import FORM
from sightline.server.operations import PICTURE

LEAST = 2000
PER_ROUTE = 25  # drawn at random, always the same; those that follow from the schema alone come on top

config = schemathesis.Config()
config.projects.default.generation.update(deterministic=True, max_examples=PER_ROUTE)
# A copy: what is made of it changes its examples.
description = schemathesis.openapi.from_dict(json.loads(describe.text(describe.document())), config=config)
load_all_checks()
# A schema cannot say that roles take turns or that text is a picture, so what it allows may still be refused.
LEFT_OUT = ["positive_data_acceptance"]
# An empty list in place of a number leaves no trace in a form, so it is no wrong form.
LEFT_OUT_OF_FORMS = [*LEFT_OUT, "negative_data_rejection"]
statuses = Counter()


def cheap(value):
    """Shortens the answers that are asked for, and puts a picture where its text would not be one."""
    if isinstance(value, list):
        for each in value:
            cheap(each)
    if not isinstance(value, dict):
        return
    for name, allowed in (("max_tokens", 2**31 - 1), ("max_completion_tokens", 2**31 - 1), ("n", 8)):
        if type(value.get(name)) is int and 2 < value[name] <= allowed:
            value[name] = 2
    if "messages" in value and value.get("max_completion_tokens") is None and value.get("max_tokens") is None:
        value["max_tokens"] = 2
    if "task" in value and value.get("options") is None:
        value["options"] = {}
    if isinstance(value.get("options"), dict) and value["options"].get("max_tokens") is None:
        value["options"]["max_tokens"] = 2
    for name, each in value.items():
        if name in ("url", "image") and isinstance(each, str):
            value[name] = PICTURE
        elif name == "images" and isinstance(each, list):
            value[name] = [PICTURE if isinstance(one, str) else one for one in each]
        else:
            cheap(each)


def sensible(body):
    """Makes pictures of a form's files and a conversation of any messages, so that more of them reach the model."""
    if not isinstance(body, dict):
        return
    if isinstance(body.get("image"), list):
        body["image"] = [base64.b64decode(PICTURE) for _ in body["image"]]
    for message, role in zip(reversed(body.get("messages", [])), itertools.cycle(("user", "assistant"))):
        if isinstance(message, dict) and message.get("role") in ("system", "developer", "user", "assistant", "tool"):
            message.pop("tool_calls", None)
            message["role"] = role
            if message.get("content") in (None, [], "") or role == "assistant":
                message["content"] = "What is it?"


@description.exclude(path=["/v1/infer", "/v1/infer_stream"]).parametrize()  # these are /infer and /infer_stream
def test_whatever_is_sent_is_answered_as_described(case, server):
    cheap(case.body)
    if case.meta.generation.mode is GenerationMode.POSITIVE and statuses.total() % 2:
        sensible(case.body)
    reply = case.call(base_url=server.url)
    statuses[reply.status_code] += 1
    left_out = LEFT_OUT_OF_FORMS if case.media_type == FORM else LEFT_OUT
    case.validate_response(reply, excluded_checks=CHECKS.get_by_names(left_out))


def test_that_was_enough_and_some_of_it_reached_the_model():
    assert statuses.total() >= LEAST
    assert statuses[200] > LEAST / 20
