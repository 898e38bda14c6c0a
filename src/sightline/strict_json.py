"""Reads JSON strictly and within bounds, and shows its values in error messages. Knows no field by name."""

from __future__ import annotations

import codecs
import json
import re
import reprlib
from collections import Counter
from typing import Any, NoReturn

from sightline.errors import InvalidRequest

MAX_DEPTH = 100
# Counted before parsing: each comma or bracket may become an object of 50 bytes and more. Base64 has none of them.
MAX_VALUES = 500_000


def read_json(raw: bytes) -> object:
    """Strict JSON: UTF-8, no duplicate keys, no NaN or Infinity, nothing after the value, at most 100 levels deep.

    Raises InvalidRequest with code `invalid_json`.
    """
    if not raw.strip():
        raise _bad_json("it is empty")
    if raw.startswith(codecs.BOM_UTF8):
        raise _bad_json("it begins with a byte order mark; send it without")
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise _bad_json(f"it has more than {MAX_VALUES} values")
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite
        )
        if re.search(rb"\\u[dD][89a-fA-F]", raw):  # half of a surrogate pair cannot be written as UTF-8
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        found = error.doc[error.pos :][:20].split("\n", 1)[0]
        seen = f"there stands {shown(found)}" if found else "it ends there"
        raise _bad_json(f"{error.msg} at line {error.lineno}, column {error.colno}; {seen}") from None
    except UnicodeError:
        raise _bad_json("it is not valid UTF-8 text") from None
    except RecursionError:
        raise _bad_json(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # what is left: Python refuses integers of more than 4300 digits
        raise _bad_json("it has a number with too many digits") from None
    _limit_depth(value)
    return value


def _limit_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
        if not containers:
            return
    raise _bad_json(f"it is nested deeper than {MAX_DEPTH} levels")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise _bad_json(f"the key {shown(twice)} stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _bad_json(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _bad_json(f"the number {shown(digits)} is too large")
    return number


def _bad_json(reason: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid request format: the body is not valid JSON: {reason}", code="invalid_json")


_SHORT = reprlib.Repr()
_SHORT.maxstring = 80


def shown(value: object) -> str:
    """A value as an error message shows it: JSON's words, and never long."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _SHORT.repr(value)
