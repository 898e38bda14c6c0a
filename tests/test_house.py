"""Rules of the house that no linter knows. Reads the source as text and syntax; runs none of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sightline"
FILES = sorted(SOURCE.rglob("*.py"))
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
UNDECIDED = re.compile(r"(?:^|_)(?:manager|helper|helpers|util|utils)(?:$|_)|(?:Manager|Helper|Util|Utils)(?:$|[A-Z])")

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))


def syntax(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


@every_file
def test_a_file_opens_with_the_reason_it_exists(path: Path):
    text = path.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(ast.parse(text))


@every_file
def test_a_file_is_short_enough_to_be_read_in_one_go(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@every_file
def test_a_function_is_short_enough_to_be_seen_at_once(path: Path):
    functions = [node for node in syntax(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


@every_file
def test_a_name_says_what_was_decided(path: Path):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names = [path.stem, *(node.name for node in syntax(path) if isinstance(node, kinds))]
    assert [name for name in names if UNDECIDED.search(name)] == []


@pytest.mark.parametrize("name", ["environ", "environb", "getenv", "putenv"])
def test_only_the_settings_read_the_environment(name: str):
    def reads(node: ast.AST) -> bool:
        attribute = isinstance(node, ast.Attribute) and node.attr == name
        return attribute or (isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names])

    readers = {path.relative_to(SOURCE).as_posix() for path in FILES if any(map(reads, syntax(path)))}
    assert readers <= {"settings.py"}
