"""TOML as text: a table written out, and one file laid over another.

    merged(base, over)

Tables are merged key by key. Of a list of tables (`[[meters]]`) an entry that has the `id`, `number`, `name`,
`uid` or `source` of one in the base changes that one; another one is added.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

_NAMES = ("id", "number", "uid", "name", "source")
"""The key by which an entry of a list of tables is known; the first of these that it has."""


class TomlTextError(ValueError):
    """A text is no TOML, or does not fit over another."""


class FileError(Exception):
    """A file cannot be used; `problems` has a sentence for each reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def loads(text: str) -> dict[str, Any]:
    """Parse. Raises `TomlTextError`, whatever the text is."""
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:  # numbers beyond all measure, deep nesting
        raise TomlTextError(str(error)) from error


def merged(base: str, over: str) -> str:
    """`base` with `over` laid over it. Raises `TomlTextError`."""
    return dumps(_laid_over(loads(base), loads(over), "")) if over.strip() else base


def _laid_over(base: dict[str, Any], over: Mapping[str, Any], path: str) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, dict) != isinstance(value, dict) and below is not None:
            raise TomlTextError(f"{path}{key} is a table in one file and none in the other")
        if isinstance(value, dict) and isinstance(below, dict):
            result[key] = _laid_over(below, value, f"{path}{key}.")
        elif isinstance(below, list) and _are_tables(value) and _are_tables(below):
            result[key] = _joined(below, value, f"{path}{key}.")
        else:
            result[key] = value
    return result


def _are_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _joined(base: list[dict[str, Any]], over: list[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    result = list(base)
    for entry in over:
        name = next((name for name in _NAMES if name in entry), None)
        place = next((k for k, one in enumerate(base) if name and one.get(name) == entry[name]), None)
        if place is None:
            result.append(entry)
        else:
            result[place] = _laid_over(result[place], entry, path)
    return result


def dumps(table: Mapping[str, Any]) -> str:
    """Write a table of texts, numbers, truth values, lists and tables."""
    return "\n".join(_table(table, ())) + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    later: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict) or _are_tables(value):
            later.append((key, value))
        else:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in later:
        name = ".".join(_key(part) for part in (*path, key))
        if isinstance(value, dict):
            yield f"\n[{name}]"
            yield from _table(value, (*path, key))
            continue
        for entry in value:
            yield f"\n[[{name}]]"
            yield from _table(entry, (*path, key))


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else text(key)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float() | Decimal():
            return str(value)
        case str():
            return text(value)
        case list():
            return f"[{', '.join(_value(one) for one in value)}]"
        case dict():
            return f"{{{', '.join(f'{_key(key)} = {_value(one)}' for key, one in value.items())}}}"
        case _:  # dates and times, which TOML writes as Python does
            return str(value)


def text(value: str) -> str:
    """A string in quotes, on one line."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def long_text(value: str) -> str:
    """A string in triple quotes, its lines as they are."""
    lines = [text(line)[1:-1].replace("\\t", "\t") for line in value.split("\n")]
    return '"""\n' + "\n".join(lines) + '"""'
