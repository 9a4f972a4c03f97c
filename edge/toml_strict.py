"""A strict decoder from TOML to frozen structs that reports every problem at once, not only the first.

What a file may hold is said by `msgspec.Struct` types. They may use `bool`, `int`, `str`, `Decimal`,
`Literal`, `tuple`, nested structs, unions of tagged structs, and `X | None` for what may be left out. Bounds
are those of `msgspec.Meta`; its `description` is the remedy a person reads; its `extra` may hold:

    milli   the file gives this unit with at most three decimals, the struct thousandths (A: 13.5 -> 13500)
    centi   the same with two decimals and hundredths ("" for a bare number: 1.5 -> 150)
    even    one number may stand for a whole tuple: 16 -> (16, 16, 16)
    most    the largest allowed `Decimal`; the least is 0, as money and percent have no sign here
    secret  the value is shown by its last four characters only

A problem is one line, `path = value: what is wrong; remedy`. Items of lists are counted from 1, as people
count. Values of unknown keys are not repeated: one may be a password in the wrong place.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple, TypeVar, cast

import msgspec
from msgspec import inspect

from edge.errors import ConfigError

StructT = TypeVar("StructT", bound=msgspec.Struct)

WRONG: Final[Any] = msgspec.UNSET
"""Stands in a struct where the file has no usable value, so that cross checks can look at all the rest."""

_MOST_DECIMALS = 6
"""Of a price; keeps a slip like 1e-999999 out of exact arithmetic."""

_SHOWN = 40
"""How much of a wrong value is repeated: enough to find it in the file."""

_AT_LINE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)  # of tomllib
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,40}")
_INT64 = 2**63  # TOML 1.0 integers have 64 bits; Python's have no end


class Problems:
    """The lines for `ConfigError`, in the order of finding."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, path: str, value: object, wrong: str, remedy: str) -> None:
        """Note that `value` at `path` is wrong."""
        self.note(f"{path} = {shown(value)}", wrong, remedy)

    def note(self, path: str, wrong: str, remedy: str) -> None:
        """Note a problem that needs no value to be understood, or whose value must not be repeated."""
        self.lines.append(f"{path}: {wrong}; {remedy}")


def parse(text: str) -> dict[str, Any]:
    """Parse TOML; every decimal number comes exact. Raises `ConfigError` with one line."""
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        problem = _syntax_problem(str(error), last_line=text.rstrip().count("\n") + 1)
    except (ValueError, InvalidOperation):  # more digits, or a larger exponent, than Python reads
        problem = "the file: a number far too large; correct it"
    except RecursionError:
        problem = "the file: brackets nested too deeply; lists here hold plain values"
    raise ConfigError([problem])


def decode(raw: dict[str, Any], struct: type[StructT], problems: Problems) -> StructT:
    """Decode a table into `struct`; where a problem was noted, the field holds `WRONG`."""
    node = inspect.type_info(struct)
    if not isinstance(node, inspect.StructType):
        raise TypeError(f"{struct} is no struct")
    return cast("StructT", _table(node, raw, "", problems))


def nearest(word: object, known: Iterable[object]) -> str:
    """Say which known word was meant, or which there are."""
    words = list(dict.fromkeys(str(item) for item in known))
    close = difflib.get_close_matches(str(word)[:_SHOWN], words, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(words)}" if words else "none is known here"


def shown(value: object) -> str:
    """Show a value as it stands in a file, short and on one line."""
    match value:
        case bool():
            text = "true" if value else "false"
        case int():
            text = str(value) if abs(value) <= _INT64 else "a number of more than 64 bits"
        case str():
            text = json.dumps(value[: _SHOWN + 1], ensure_ascii=not value.isprintable())
        case list() | tuple():
            text = f"[{', '.join('[...]' if isinstance(v, list | dict) else shown(v) for v in value[:10])}]"
        case dict():
            text = "{...}"
        case _:
            text = str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def masked(secret: str) -> str:
    """Show only the end of a number that opens things."""
    return f"…{secret[-4:]}"


def _syntax_problem(message: str, last_line: int) -> str:
    found = _AT_LINE.fullmatch(message)
    wrong, line, column = found.groups() if found else (message, None, None)
    where = f"line {line}, column {column}" if line else f"line {last_line}, the last"
    return f"{where}: {wrong}; this is not TOML, look for quotes, brackets and = there"


class _Rule(NamedTuple):
    """A type with the remedy and extras that hold for it, optionality and annotations unwrapped."""

    type: inspect.Type
    remedy: str
    extra: dict[str, Any]


def _rule(node: inspect.Type, remedy: str = "", extra: dict[str, Any] | None = None) -> _Rule:
    extra = extra or {}
    if isinstance(node, inspect.Metadata):
        remedy = (node.extra_json_schema or {}).get("description", remedy)
        return _rule(node.type, remedy, extra | (node.extra or {}))
    if isinstance(node, inspect.UnionType):
        # TOML has no null: `X | None` only says that the key may be left out.
        alternatives = [one for one in node.types if not isinstance(one, inspect.NoneType)]
        if len(alternatives) == 1:
            return _rule(alternatives[0], remedy, extra)
    return _Rule(node, remedy, extra)


def _value(rule: _Rule, raw: object, path: str, problems: Problems) -> object:
    match rule.type:
        case inspect.StructType() as node:
            return _table(node, raw, path, problems)
        case inspect.UnionType() as node:
            return _tagged_table(node, raw, path, problems)
        case inspect.TupleType() as node:
            return _tuple(node, rule, raw, path, problems)
        case inspect.VarTupleType() as node:
            items = [_rule(node.item_type, rule.remedy, rule.extra)]
            return _list(items, raw, path, (node.min_length or 0, None), rule.remedy, problems)
        case _:
            value, wrong = _leaf(rule, raw)
    if wrong:
        hide = bool(rule.extra.get("secret")) and isinstance(raw, str)
        problems.add(path, masked(str(raw)) if hide else raw, wrong, rule.remedy)
        return WRONG
    return value


def _table(node: inspect.StructType, raw: object, path: str, problems: Problems) -> object:
    if not isinstance(raw, dict):
        problems.note(path, _not_a("a table", raw), _heading_remedy(path))
        return _wrong_table(node)
    known = {field.encode_name: field for field in node.fields}
    keys = [node.tag_field, *known] if node.tag_field else list(known)
    for key in raw:
        if key not in keys:
            problems.note(_join(path, key), "unknown key", nearest(key, keys))
    values = {}
    for key, field in known.items():
        rule, where = _rule(field.type), _join(path, key)
        if key in raw:
            values[field.name] = _value(rule, raw[key], where, problems)
        elif field.required:
            problems.note(where, "missing", _missing_remedy(rule, where))
            values[field.name] = (
                _wrong_table(rule.type) if isinstance(rule.type, inspect.StructType) else WRONG
            )
    return node.cls(**values)


def _wrong_table(node: inspect.StructType) -> object:
    """A struct of wrong values only, through which cross checks can still walk."""
    return node.cls(**{field.name: WRONG for field in node.fields})


def _tagged_table(union: inspect.UnionType, raw: object, path: str, problems: Problems) -> object:
    """Choose the struct of a union by its tag, e.g. kind = "tcp"."""
    variants = {node.tag: node for node in union.types if isinstance(node, inspect.StructType)}
    first = next(iter(variants.values()))
    tag_field = first.tag_field
    if not isinstance(raw, dict) or tag_field is None:
        return _table(first, raw, path, problems)
    tag, where = raw.get(tag_field), _join(path, tag_field)
    if isinstance(tag, str) and tag in variants:
        return _table(variants[tag], raw, path, problems)
    remedy = f"write {' or '.join(shown(tag) for tag in variants)}"
    if tag_field in raw:
        problems.add(where, tag, "unknown", remedy)
    else:
        problems.note(where, "missing", remedy)
    # What all variants share (the id) stays known, so that references to it are not called wrong too.
    return _table(first, raw, path, Problems())


def _tuple(node: inspect.TupleType, rule: _Rule, raw: object, path: str, problems: Problems) -> object:
    items = [_rule(item, rule.remedy, rule.extra) for item in node.item_types]
    if rule.extra.get("even") and not isinstance(raw, list):
        one = _value(items[0], raw, path, problems)
        return one if one is WRONG else (one,) * len(items)
    return _list(items, raw, path, (len(items), len(items)), rule.remedy, problems)


def _list(
    items: list[_Rule], raw: object, path: str, size: tuple[int, int | None], remedy: str, problems: Problems
) -> object:
    """Decode a list; item i follows `items[i]`, all later ones the last rule. `size` is (least, most)."""
    least, most = size
    tables = isinstance(items[0].type, inspect.StructType | inspect.UnionType)
    remedy = _heading_remedy(f"{path}[1]") if tables else remedy
    if not isinstance(raw, list):
        problems.note(path, _not_a("a list", raw), remedy)
        return WRONG
    if len(raw) < least or (most is not None and len(raw) > most):
        needed = f"at least {least}" if most is None else f"{least}"
        problems.note(path, f"{len(raw)} values, but {needed} are needed", remedy)
        return WRONG
    last = len(items) - 1
    decoded = tuple(
        _value(items[min(i, last)], item, f"{path}[{i + 1}]", problems) for i, item in enumerate(raw)
    )
    return WRONG if any(item is WRONG for item in decoded) else decoded


def _leaf(rule: _Rule, raw: object) -> tuple[object, str]:
    """Return the value and "", or anything and what is wrong."""
    wrong = ""
    match rule.type:
        case inspect.IntType() if "milli" in rule.extra:
            return _scaled(raw, rule.type, rule.extra["milli"], 3)
        case inspect.IntType() if "centi" in rule.extra:
            return _scaled(raw, rule.type, rule.extra["centi"], 2)
        case inspect.DecimalType():
            return _decimal(raw, rule.extra["most"])
        case inspect.BoolType():
            wrong = "" if isinstance(raw, bool) else _not_a("true or false", raw)
        case inspect.IntType():
            wrong = _wrong_int(raw, rule.type)
        case inspect.StrType():
            wrong = _wrong_text(raw, rule.type)
        case inspect.LiteralType():
            # In Python True == 1; here only the written value counts.
            right = any(type(raw) is type(one) and raw == one for one in rule.type.values)
            wrong = "" if right else f"not one of {', '.join(shown(one) for one in rule.type.values)}"
        case _:
            raise TypeError(f"{rule.type} cannot stand in a configuration struct")
    return raw, wrong


def _scaled(raw: object, bounds: inspect.IntType, unit: str, decimals: int) -> tuple[int, str]:
    """Decode a number of `unit` into units of its last decimal, in which the bounds are, too."""
    if isinstance(raw, bool) or not isinstance(raw, int | Decimal):
        return 0, _not_a("a number", raw)
    amount = Decimal(raw)
    least, most = (Decimal(bound or 0) / 10**decimals for bound in (bounds.ge, bounds.le))
    wrong = "not a number" if amount.is_nan() else _out_of_bounds(amount, least, most, unit and f" {unit}")
    if not wrong and _decimals(amount) > decimals:
        wrong = f"more than {decimals} decimals"
    return (0, wrong) if wrong else (int(amount.scaleb(decimals)), "")


def _decimal(raw: object, most: int) -> tuple[Decimal, str]:
    if isinstance(raw, bool) or not isinstance(raw, int | str | Decimal):
        return Decimal(0), _not_a("a number", raw)
    if isinstance(raw, str) and not re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,12})?", raw):
        return Decimal(0), "not a decimal number"
    amount = Decimal(raw)
    wrong = "not a number" if amount.is_nan() else _out_of_bounds(amount, 0, most)
    if not wrong and _decimals(amount) > _MOST_DECIMALS:
        wrong = f"more than {_MOST_DECIMALS} decimals"
    return (amount, wrong) if wrong else (abs(amount), "")  # -0.0 is a number too


def _decimals(amount: Decimal) -> int:
    exponent = amount.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _wrong_int(raw: object, bounds: inspect.IntType) -> str:
    if isinstance(raw, bool) or not isinstance(raw, int):
        return _not_a("a whole number", raw)
    return _out_of_bounds(raw, bounds.ge, bounds.le)


def _out_of_bounds(
    number: int | Decimal, least: float | Decimal | None, most: float | Decimal | None, unit: str = ""
) -> str:
    if least is not None and number < least:
        return f"less than {least}{unit}"
    if most is not None and number > most:
        return f"more than {most}{unit}"
    return ""


def _wrong_text(raw: object, bounds: inspect.StrType) -> str:
    if not isinstance(raw, str):
        return _not_a("text in quotes", raw)
    if not raw.isprintable():
        return "has a character that cannot be printed on one line"
    if not raw.strip():
        return "empty"
    if bounds.max_length is not None and len(raw) > bounds.max_length:
        return f"longer than {bounds.max_length} characters"
    if bounds.pattern is not None and not re.search(bounds.pattern, raw):
        return "not in the form that is needed"
    return ""


def _not_a(needed: str, raw: object) -> str:
    match raw:
        case bool():
            found = "true or false"
        case int():
            found = "a whole number"
        case Decimal():
            found = "a decimal number"
        case str():
            found = "text in quotes"
        case list():
            found = "a list"
        case dict():
            found = "a table"
        case _:
            found = "a date or time"
    return f"{found}, but {needed} is needed"


def _missing_remedy(rule: _Rule, path: str) -> str:
    if isinstance(rule.type, inspect.StructType):
        return _heading_remedy(path)
    if isinstance(rule.type, inspect.VarTupleType) and not rule.remedy:
        return _heading_remedy(f"{path}[1]")
    return rule.remedy


def _heading_remedy(path: str) -> str:
    heading = re.sub(r"\[\d+\]", "", path)
    return f"write a table [[{heading}]]" if path.endswith("]") else f"write a table [{heading}]"


def _join(path: str, key: str) -> str:
    step = key if _BARE_KEY.fullmatch(key) else shown(key)
    return f"{path}.{step}" if path else step
