"""Makes the OpenAPI document of operations.py, the catalogue and the bodies. Runs nothing: the same everywhere.

`python -m sightline.server.describe` prints it; `make openapi` writes docs/openapi.json of that.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from sightline import __version__, wire, wire_tasks
from sightline.server.form import FILE_FIELDS
from sightline.server.operations import FORM_FIELDS, OPERATIONS, Answer, Events, Operation, Shape
from sightline.tasks.catalogue import TASKS, Task

Json = dict[str, Any]

INTRODUCTION = (
    "Questions about pictures. The chat API is OpenAI's; errors have its envelope and say the value seen, the limit "
    "and the way out. Beside the statuses that each route names there are 405 and, for too many headers, 431. Every "
    "answer has the header `x-request-id`, which leads to the server's log. In the examples of forms, a file stands as "
    "its base64."
)
TAGS: Mapping[str, str] = {
    "chat": "OpenAI's API",
    "tasks": "Questions people ask again and again, by name",
    "batches": "Many questions, answered when there is time",
    "running": "For whoever runs the server",
}
HEADERS: Mapping[str, Json] = {
    "x-request-id": {
        "description": "Names this request in the server's log.",
        "required": True,
        "schema": {"type": "string", "pattern": "^req_[0-9a-f]{24}$"},
    },
    "retry-after": {"description": "Seconds to wait before asking again.", "schema": {"type": "integer", "minimum": 1}},
}


def document(base_path: str = "") -> Json:
    """The description of a server whose routes are also under `base_path`."""
    references, schemas = _schemas()
    paths: dict[str, Json] = {}
    for route, operation in OPERATIONS.items():
        method, path = route.split()
        paths.setdefault(path, {})[method.lower()] = _operation(route, operation, references)
    return {
        "openapi": "3.2.0",
        "info": {"title": "Sightline", "version": __version__, "description": INTRODUCTION},
        "servers": [{"url": base} for base in dict.fromkeys((base_path or "/", "/"))],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {"schemas": schemas, "headers": HEADERS},
    }


def text(described: Json) -> str:
    """The document as the file has it."""
    return json.dumps(described, indent=1, ensure_ascii=False) + "\n"


# ---- the routes


def _operation(route: str, operation: Operation, references: Mapping[Any, Json]) -> Json:
    said: Json = {
        "operationId": re.sub(r"\W+", "_", route.lower()).strip("_"),
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
    }
    if operation.parameters:
        said["parameters"] = [
            {"name": name, "required": about["in"] == "path"} | dict(about)
            for name, about in operation.parameters.items()
        ]
    if operation.takes:
        content = {kind: _takes(kind, operation, references) for kind in operation.takes}
        said["requestBody"] = {"required": True, "content": content}
    said["responses"] = {str(status): _answer(answer, references) for status, answer in operation.answers.items()}
    return said


def _takes(kind: str, operation: Operation, references: Mapping[Any, Json]) -> Json:
    examples = {
        re.sub(r"\W+", "_", name.lower()): {"summary": name, "value": value}
        for name, value in operation.examples[kind].items()
    }
    return {"schema": _shape(operation.takes[kind], references, "validation"), "examples": examples}


def _answer(answer: Answer, references: Mapping[Any, Json]) -> Json:
    return {
        "description": answer.meaning,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *answer.headers)},
        "content": {
            kind: _stream(shape, references)
            if isinstance(shape, Events)
            else {"schema": _shape(shape, references, "serialization")}
            for kind, shape in answer.body.items()
        },
    }


def _shape(shape: Shape, references: Mapping[Any, Json], mode: str) -> Json:
    assert not isinstance(shape, Events)
    return references[shape, mode] if isinstance(shape, type) else dict(shape)


def _stream(events: Events, references: Mapping[Any, Json]) -> Json:
    """OpenAPI 3.2 describes a stream by its items; an event's data is text, ours is JSON in it."""
    items: list[Json] = []
    for name, kinds in events.data.items():
        inner = [references[kind, "serialization"] for kind in kinds]
        data = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": inner[0] if len(inner) == 1 else {"anyOf": inner},
        }
        named = {"event": {"const": name}} if name else {}
        items.append({"type": "object", "properties": {**named, "data": data}, "required": [*named, "data"]})
    if events.last:
        items.append({"type": "object", "properties": {"data": {"const": events.last}}, "required": ["data"]})
    return {"itemSchema": {"anyOf": items}}


# ---- the bodies


def _schemas() -> tuple[Mapping[Any, Json], Json]:
    """Where each body's schema is found, by type and mode, and all schemas by name."""
    bodies: dict[tuple[Any, Any], None] = {}
    for operation in OPERATIONS.values():
        bodies |= dict.fromkeys((kind, "validation") for shape in operation.takes.values() for kind in _types(shape))
        answered = [shape for answer in operation.answers.values() for shape in answer.body.values()]
        bodies |= dict.fromkeys((kind, "serialization") for shape in answered for kind in _types(shape))
    bodies |= dict.fromkeys((task.data, "serialization") for task in TASKS.values() if task.data)
    references, found = models_json_schema(
        list(bodies), ref_template="#/components/schemas/{model}", schema_generator=wire_tasks.Untitled
    )
    schemas: Json = found["$defs"]
    for schema in schemas.values():
        schema.pop("title", None)
    _close(schemas["ChatRequest"])
    schemas["TaskRequest"]["properties"]["task"]["enum"] = list(TASKS)
    _tell_results(schemas, references)
    schemas["ChatForm"] = _form(schemas["ChatRequest"])
    return references, dict(sorted(schemas.items()))


def _types(shape: Shape) -> tuple[type[wire.Wire], ...]:
    """The bodies of ours in a shape."""
    if isinstance(shape, Events):
        return tuple(kind for kinds in shape.data.values() for kind in kinds)
    return (shape,) if isinstance(shape, type) else ()


def _close(schema: Json) -> None:
    """Adds to the chat's fields what `wire.parse_chat` knows beyond the type: nothing else may be sent."""
    for name in wire.TEMPLATE_FIELDS:
        schema["properties"][name] = {"type": "null", "description": "The chat template belongs to the model."}
    for name, harmless in wire.UNSUPPORTED.items():
        schema["properties"][name] = {"enum": [None, *harmless], "description": "Not supported otherwise."}
    for name in sorted(wire.HARMLESS):
        schema["properties"][name] = {"description": "Taken, and of no effect."}
    schema["additionalProperties"] = False


def result_name(task: Task) -> str:
    """What the schema of a task's result is called: `ChartParseResult`."""
    return task.name.title().replace("_", "") + "Result"


def _tell_results(schemas: dict[str, Json], references: Mapping[Any, Json]) -> None:
    """Gives each task's result a schema of its own; a TaskResult is any of them."""
    whole = schemas["TaskResult"]
    for task in TASKS.values():
        fields = dict(whole["properties"])
        if task.callers_schema:
            fields["data"] = {"description": "It satisfies the schema of the request's options; null when cut."}
        elif task.data:
            data = references[task.data, "serialization"]
            fields["data"] = {"anyOf": [data, {"type": "null"}]} if task.structured else data
        else:
            del fields["data"], fields["field_confidence"]
        schemas[result_name(task)] = whole | {
            "description": _about(task),
            "properties": fields,
            "required": list(fields),
            "additionalProperties": False,
        }
    named = [{"$ref": f"#/components/schemas/{result_name(task)}"} for task in TASKS.values()]
    schemas["TaskResult"] = {"description": whole["description"], "anyOf": named}


def _about(task: Task) -> str:
    """What the catalogue says of a task beside its words."""
    temperature = "0" if task.greedy else "the model's own"
    return (
        f"What task {task.name} answers. Unless the options say otherwise, with temperature {temperature} and at most "
        f"{task.max_tokens} tokens{' a page' if task.paged else ''}; in the {task.lane} queue."
    )


def _form(chat: Json) -> Json:
    """The chat as a form: files and a prompt in place of the messages."""
    fields = {name: field for name, field in chat["properties"].items() if name not in ("messages", "stop")}
    stop = {"type": "string", "minLength": 1, "maxLength": 256}  # one, as text
    files = [{"required": [name]} for name in FILE_FIELDS]
    return chat | {"properties": FORM_FIELDS | {"stop": stop} | fields, "required": ["prompt"], "anyOf": files}


if __name__ == "__main__":
    sys.stdout.write(text(document()))
