"""Makes docs/faults.md: which rows of the catalogue of bad inputs a test walks. Reads the tests as text.

    PYTHONPATH=tests python -m faults.table

A test names its rows with `@pytest.mark.row("J01", …)`, or one of its cases does, in a decorator of a test function.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
ROWS = Path(__file__).with_name("rows.toml")
PAGE = TESTS.parent / "docs" / "faults.md"
HEAD = """\
# Bad inputs

What is thrown at the server, what must happen, and which test throws it. Made from the tests by
`PYTHONPATH=tests python -m faults.table`; a test fails while it is stale.

The tests in `tests/faults/` meet a live server with the demo model. After each of them the server is healthy, its
memory is back within 5 MiB however often the input comes, and the next question is answered. Media by URL are fetched
in the test's own process, from a server on loopback that a test may dial and a user cannot; slow clients meet a server
there whose deadlines are a blink. A ★ stands at the rows that are walked on every change; rows without one and without
a test are not listed.
"""


def marked() -> dict[str, set[str]]:
    """The tests that walk each row: id -> names such as "faults/test_json.py: the sentence of the test"."""
    walked: dict[str, set[str]] = defaultdict(set)
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for test in ast.walk(tree):
            if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{path.relative_to(TESTS).as_posix()}: {test.name.removeprefix('test_').replace('_', ' ')}"
                for row in _rows(test.decorator_list):
                    walked[row].add(name)
    return walked


def _rows(decorators: Sequence[ast.expr]) -> Iterator[str]:
    for decorator in decorators:
        for call in ast.walk(decorator):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.row":
                yield from (ast.literal_eval(argument) for argument in call.args)


def rows() -> dict[str, dict[str, Any]]:
    """The catalogue: id -> `input`, `expected`, `star`, `why`."""
    return tomllib.loads(ROWS.read_text(encoding="utf-8"))["rows"]


def page(walked: Mapping[str, set[str]]) -> str:
    """The text of docs/faults.md."""
    groups: Mapping[str, str] = tomllib.loads(ROWS.read_text(encoding="utf-8"))["groups"]
    lines = [HEAD]
    for group, title in groups.items():
        lines += [f"## {group}. {title}", "", "| row | input | expected | test |", "|---|---|---|---|"]
        for name, row in rows().items():
            if name[0] == group and (row.get("star") or walked.get(name)):
                tests = "<br>".join(sorted(walked.get(name, ()))) or f"not covered: {row.get('why', 'no reason given')}"
                cells = [name + " ★" * bool(row.get("star")), row["input"], row["expected"], tests]
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return re.sub(r"\n+$", "\n", "\n".join(lines))


if __name__ == "__main__":
    PAGE.write_text(page(marked()), encoding="utf-8")
