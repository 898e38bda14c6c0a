"""The OpenAPI document says what the server does: every route, as the code is now, with examples that are answered."""

import base64
import json
import re
from pathlib import Path

import httpx2
import jsonschema_rs
import pytest
from starlette.routing import Route

from asgi import post
from fake_backend import FakeBackend
from sightline.errors import OutOfMemory
from sightline.server import describe
from sightline.server.app import create_app
from sightline.server.bodies import FORM, JSON
from sightline.server.operations import BATCH_ID, EVENTS, FILE_ID, OPERATIONS
from sightline.settings import Settings
from sightline.tasks.catalogue import TASKS
from sightline.types import Delta

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"
DOCUMENT = describe.document()
EXAMPLES = [
    (route, kind, name)
    for route, operation in OPERATIONS.items()
    for kind in operation.takes
    for name in operation.examples[kind]
]
WITHOUT_BODY = [route for route, operation in OPERATIONS.items() if not operation.takes]


def satisfies(value, schema):
    """Raises what is wrong with a value for a schema of the document."""
    jsonschema_rs.validate(schema | {"components": DOCUMENT["components"]}, value)


def answered(reply, route):
    """Checks a reply against the first answer the route promises."""
    method, path = route.split()
    status, promised = next(iter(DOCUMENT["paths"][path][method.lower()]["responses"].items()))
    assert reply.status_code == int(status), reply.text
    kind = reply.headers["content-type"].removesuffix("; charset=utf-8")
    (content,) = (about for name, about in promised["content"].items() if name.startswith(kind))
    if kind == JSON:
        satisfies(reply.json(), content["schema"])
    if kind == EVENTS:
        for event in reply.text.split("\n\n")[:-1]:
            known_event(dict(line.split(": ", 1) for line in event.split("\n")), content["itemSchema"]["anyOf"])
    return kind


def known_event(event, kinds):
    """Checks an event, JSON in its data included, which validators do not look into."""
    (kind,) = (each["properties"] for each in kinds if promises(each["properties"], event))
    if "contentSchema" in kind["data"]:
        satisfies(json.loads(event["data"]), kind["data"]["contentSchema"])


def promises(kind, event):
    is_json = event["data"].startswith("{")
    return (kind.get("event", {}).get("const"), "contentSchema" in kind["data"]) == (event.get("event"), is_json)


def test_the_committed_document_is_the_one_that_the_code_makes():
    assert FILE.read_text(encoding="utf-8") == describe.text(DOCUMENT), "renew it: make openapi"


def test_every_route_is_described_and_no_other():
    routes = [route for route in create_app(FakeBackend(), Settings()).routes if isinstance(route, Route)]
    served = {
        f"{method} {re.sub(r':[a-z]+}', '}', route.path)}"
        for route in routes
        if getattr(route, "include_in_schema", True)
        for method in route.methods - {"HEAD"}
    }
    assert served == set(OPERATIONS)


def test_every_route_says_what_it_is_for_and_has_an_example():
    for route, operation in OPERATIONS.items():
        assert operation.summary, route
        assert operation.description, route
        assert all(operation.examples[kind] for kind in operation.takes), route
        assert all("example" in parameter for parameter in operation.parameters.values()), route
        assert set(operation.parameters) >= set(re.findall(r"{(\w+)}", route)), route


def test_all_schemas_are_schemas_and_all_examples_satisfy_theirs():
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
    for route, kind, name in EXAMPLES:
        method, path = route.split()
        content = DOCUMENT["paths"][path][method.lower()]["requestBody"]["content"][kind]
        satisfies(OPERATIONS[route].examples[kind][name], content["schema"])


def test_every_task_has_an_example_and_a_schema_of_its_result():
    examples = OPERATIONS["POST /infer"].examples[JSON].values()
    assert {example["task"] for example in examples} == set(TASKS)
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["TaskRequest"]["properties"]["task"]["enum"] == list(TASKS)
    results = [schemas[describe.result_name(task)] for task in TASKS.values()]
    assert [{"$ref": f"#/components/schemas/{describe.result_name(task)}"} for task in TASKS.values()] == schemas[
        "TaskResult"
    ]["anyOf"]
    assert ["data" in result["required"] for result in results] == [
        task.structured or task.data is not None for task in TASKS.values()
    ]


@pytest.mark.parametrize("task", [task for task in TASKS.values() if task.writes], ids=lambda task: task.name)
def test_what_a_model_is_held_to_is_what_is_published(task):
    published = DOCUMENT["components"]["schemas"][task.data.__name__]
    written = json.loads(task.schema)
    if task.refine:  # adds to what the model wrote
        published, written = (schema["items"]["$ref"].rsplit("/", 1)[1] for schema in (published, written))
        published = DOCUMENT["components"]["schemas"][published]
        written = json.loads(task.schema)["$defs"][written]
        assert published["properties"] | written["properties"] == published["properties"]
    else:
        assert published["properties"].keys() == written["properties"].keys()
    assert published["additionalProperties"] is written["additionalProperties"] is False


def test_nothing_in_the_document_leads_elsewhere():
    assert re.findall(r"https?://[^\"]*", describe.text(DOCUMENT)) == []


def test_a_server_under_a_base_path_says_so():
    assert describe.document("/qwen-vl")["servers"][0] == {"url": "/qwen-vl"}


@pytest.fixture(scope="module")
def client(server):
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def ids(client):
    """Ids of a new file and a new batch, for those in the examples."""
    (form,) = OPERATIONS["POST /v1/files"].examples[FORM].values()
    (asked,) = OPERATIONS["POST /v1/batches"].examples[JSON].values()
    row = json.loads(base64.b64decode(form["file"]).splitlines()[0])
    rows = "\n".join(json.dumps(row | {"custom_id": str(number)}) for number in range(40))  # not done before a cancel
    lines = {"file": ("questions.jsonl", rows.encode())}
    file, read = (client.post("/v1/files", files=lines, data={"purpose": "batch"}).json()["id"] for _ in range(2))
    batch = client.post("/v1/batches", json=asked | {"input_file_id": read}).json()["id"]
    return {FILE_ID: file, BATCH_ID: batch}


@pytest.mark.parametrize("route", WITHOUT_BODY)
def test_a_route_without_a_body_answers_as_described(client, route, ids):
    method, path = route.split()
    query = {}
    for name, about in OPERATIONS[route].parameters.items():
        value = ids.get(about["example"], about["example"])
        path = path.replace(f"{{{name}}}", str(value))
        query |= {name: value} if about["in"] == "query" else {}
    answered(client.request(method, path, params=query), route)


@pytest.mark.parametrize(("route", "kind", "name"), EXAMPLES)
def test_an_example_is_answered_as_described(client, route, kind, name, ids):
    method, path = route.split()
    body = OPERATIONS[route].examples[kind][name]
    body = body | {key: ids[value] for key, value in body.items() if value in (FILE_ID, BATCH_ID)}
    reply = client.request(method, path, **(as_form(body) if kind == FORM else {"json": body}))
    came_as = answered(reply, route)
    assert came_as == (EVENTS if path.endswith("_stream") or body.get("stream") else JSON)
    if "task" in body:
        held_to_its_task(TASKS[body["task"]], result(reply, came_as))


def result(reply, came_as):
    """The result of a task, of its last event if it was streamed."""
    return reply.json()["result"] if came_as == JSON else json.loads(reply.text.rstrip().rsplit("data: ", 1)[1])


def held_to_its_task(task, result):
    """Checks a result against the schema of its own task; the examples of structured tasks are answered whole."""
    satisfies(result, {"$ref": f"#/components/schemas/{describe.result_name(task)}"})
    if task.structured or task.data:
        assert result["data"] is not None
        assert result["field_confidence"]


def test_an_extracted_record_satisfies_the_schema_that_was_sent(client):
    (body,) = (each for each in OPERATIONS["POST /infer"].examples[JSON].values() if each["task"] == "extract")
    satisfies(client.post("/infer", json=body).json()["result"]["data"], body["options"]["schema"])


def as_form(body):
    """What stands as base64 in an example of a form goes as a file."""
    texts = {name: value for name, value in body.items() if name not in ("image", "file", "video")}
    encoded = [
        (name, each) for name in body.keys() - texts for each in ([body[name]] if name == "file" else body[name])
    ]
    return {"data": texts, "files": [(name, ("file", base64.b64decode(each))) for name, each in encoded]}


@pytest.mark.anyio
async def test_a_stream_that_breaks_off_is_described_too():
    backend = FakeBackend(Delta("Hel", (1,)), OutOfMemory("full"))
    body = OPERATIONS["POST /infer_stream"].examples[JSON]["A question"]
    reply = await post(create_app(backend, Settings()), body, "/infer_stream").end()
    events = [dict(line.split(": ", 1) for line in event.split("\n")) for event in reply.events]
    assert [event["event"] for event in events] == ["token", "error"]
    content = DOCUMENT["paths"]["/infer_stream"]["post"]["responses"]["200"]["content"][EVENTS]
    for event in events:
        known_event(event, content["itemSchema"]["anyOf"])


def test_the_server_serves_the_document(client):
    assert client.get("/openapi.json").json() == DOCUMENT
