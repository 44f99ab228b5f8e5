"""Every key of a config, read from the dataclasses themselves: the field, its default, and the line under it.

    max_steps: int = 10_000
    \"\"\"optimiser steps in all; …\"\"\"        ─▶   Key("training.max_steps", "int", 10000, "optimiser steps", "…")

Invariant: nothing is said twice; a field without a line is an error. Knows no config.
"""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIRED = "(required)"
UNIT_NAMES = {"db": "dB", "hz": "Hz", "kbps": "kbit/s"} | {
    u: u for u in ("seconds", "steps", "beats", "frames", "bytes")
}
"""last part of a field's name -> its unit, where the sentence begins otherwise"""
UNIT = re.compile(
    r"^((?:optimiser |validation |training )?steps|seconds|hours|milliseconds|hertz|Hz|kHz|samples|frames|beats|"
    r"windows|LUFS|dB|semitones|bytes|ids|tokens|positions|entries|clusters|levels|layers|channels|rows|clips|crops|epochs|"
    r"nats?|percent|share|probability|widths?|phonemes|pieces)\b"
)


@dataclass(frozen=True)
class Key:
    """One key that a user can set."""

    name: str
    """dotted, as an override says it"""
    type: str
    default: Any
    """a plain value; REQUIRED where there is none"""
    unit: str
    """empty for a plain number, a name or a switch"""
    sentence: str

    def shown_default(self) -> str:
        """As an override would say it."""
        if isinstance(self.default, str):
            return self.default or "''"
        return json.dumps(self.default, default=str)


def keys(kind: type[Any], default: Any = dataclasses.MISSING, prefix: str = "") -> list[Key]:
    """The keys of a config dataclass, nested ones dotted, in the order of the source.

    Raises:
        ValueError: a field without a line under it.
    """
    lines = field_lines(kind)
    types = typing.get_type_hints(kind)
    found: list[Key] = []
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        value = default_of(field) if default is dataclasses.MISSING else getattr(default, field.name)
        inner = type(value) if dataclasses.is_dataclass(value) else dataclass_in(types[field.name])
        if inner is not None and value is not None:
            found += keys(inner, value if dataclasses.is_dataclass(value) else dataclasses.MISSING, name + ".")
            continue
        if field.name not in lines:
            raise ValueError(f"{kind.__module__}.{kind.__name__}.{field.name} has no line under it: say what it is")
        sentence = lines[field.name]
        unit = UNIT.match(sentence)
        shown = REQUIRED if value is dataclasses.MISSING else plain(value)
        spelled = unit.group(0) if unit else UNIT_NAMES.get(field.name.rpartition("_")[2], "")
        found.append(Key(name, type_name(types[field.name]), shown, spelled, sentence))
    return found


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """The default, made by its factory if need be; MISSING where there is none."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def dataclass_in(annotation: Any) -> type[Any] | None:
    """The dataclass of `X` or `X | None`, if X is one."""
    options = [a for a in typing.get_args(annotation) if a is not type(None)] or [annotation]
    only = options[0] if len(options) == 1 else None
    return only if isinstance(only, type) and dataclasses.is_dataclass(only) else None


def field_lines(kind: type[Any]) -> dict[str, str]:
    """field -> the line under it, for a dataclass and those that it inherits from."""
    lines: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                lines[field.target.id] = " ".join(str(below.value.value).split())
    return lines


def plain(value: Any) -> Any:
    """A value as yaml would hold it."""
    if isinstance(value, tuple | list | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def type_name(annotation: Any) -> str:
    """int, str | None, 'fp32' | 'bf16', …"""
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(str(choice) for choice in typing.get_args(annotation))
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
