"""Parameters of a request: form-encoded with brackets, read by name and type; what nobody read is refused.

Error messages name parameters, never values, and no name that could hide one.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl

from stripe_platform.api.errors import ApiError
from stripe_platform.cards import holds_card_number

MAX_PAIRS, MAX_DEPTH, LONGEST = 1000, 6, 5000
METADATA_KEYS, METADATA_KEY, METADATA_VALUE = 50, 40, 500
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_INDEX = re.compile(r"[0-9]{1,4}", re.ASCII)
_PART = re.compile(r"\[([^\[\]]*)\]")
_SHOWN = re.compile(r"[a-z0-9_]{1,40}(?:\[[a-z0-9_]{0,40}\]){0,6}")
_TRUE, _FALSE = ("true", "1"), ("false", "0")

Tree = dict[str, Any]


def parse(encoded: bytes) -> Tree:
    """The parameters as nested maps, lists among them (`a[]`, `a[0]`) by index. Later values win."""
    try:
        pairs = parse_qsl(encoded.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_PAIRS, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise ApiError(400, "The parameters cannot be read: send them form-encoded, in UTF-8.") from None
    tree: Tree = {}
    for name, value in pairs:
        match = _NAME.fullmatch(name)
        if match is None or "\x00" in value:
            raise ApiError(400, "A parameter's name or value cannot be read: check its brackets and characters.",
                           code="parameter_unknown")
        _put(tree, [match[1], *_PART.findall(match[2])], value)
    return tree


def _put(tree: Tree, path: list[str], value: str) -> None:
    if len(path) > MAX_DEPTH:
        raise ApiError(400, f"A parameter is nested deeper than {MAX_DEPTH} levels: flatten it.")
    node = tree
    for part in path[:-1]:
        node = node.setdefault(part or str(len(node)), {})
        if not isinstance(node, dict):
            raise _both()
    last = path[-1] or str(len(node))
    if isinstance(node.get(last), dict):
        raise _both()
    node[last] = value


def _both() -> ApiError:
    return ApiError(400, "A parameter is given both as a value and with brackets: keep one.")


def _list(value: Any) -> list[Any] | None:
    """The items of `a[]` or `a[0]`, None for what is no list."""
    if not isinstance(value, dict) or not all(_INDEX.fullmatch(name) for name in value):
        return None
    return [value[name] for name in sorted(value, key=int)]


def shown(name: str) -> str | None:
    """A parameter's name as an error may repeat it."""
    return name if _SHOWN.fullmatch(name) and not holds_card_number(name) else None


class Params:
    """The parameters of one level. Each reading takes its name off the list that `end` refuses."""

    def __init__(self, tree: Mapping[str, Any], path: str = "") -> None:
        self._tree, self._path = tree, path
        self._read: set[str] = set()
        self._inner: list[Params] = []

    def given(self, name: str) -> bool:
        """Whether it was sent at all; an empty value is sent, and unsets."""
        return name in self._tree

    def text(self, name: str, *, required: bool = False, longest: int = LONGEST, choices: Collection[str] | None = None,
             sealed: bool = False) -> str | None:
        """Text, None when absent or empty. Only what will be `sealed` may hold a card number."""
        value = self._take(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "is text")
        if not value:
            if required:
                raise self.absent(name)
            return None
        if len(value) > longest:
            raise self._wrong(name, f"has at most {longest} characters")
        if choices is not None and value not in choices:
            raise self._wrong(name, f"is one of {', '.join(sorted(choices))}")
        if not sealed and holds_card_number(value):
            raise self._wrong(name, "must not hold a card number")
        return value

    def need(self, name: str, **rules: Any) -> str:
        """Text that must be there."""
        return str(self.text(name, required=True, **rules))

    def integer(self, name: str, *, required: bool = False, low: int | None = None, high: int | None = None
                ) -> int | None:
        value = self.text(name, required=required, longest=20)
        if value is None:
            return None
        if not re.fullmatch(r"-?[0-9]{1,19}", value, re.ASCII):
            raise self._wrong(name, "is an integer", "parameter_invalid_integer")
        number = int(value)
        if (low is not None and number < low) or (high is not None and number > high):
            raise self._wrong(name, f"lies between {low} and {high}" if high is not None else f"is at least {low}",
                              "parameter_invalid_integer")
        return number

    def boolean(self, name: str) -> bool | None:
        value = self.text(name, longest=5)
        if value is None:
            return None
        if value not in _TRUE + _FALSE:
            raise self._wrong(name, "is true or false")
        return value in _TRUE

    def instant(self, name: str) -> dt.datetime | None:
        value = self.integer(name, low=0, high=253_402_300_799)
        return None if value is None else dt.datetime.fromtimestamp(value, dt.UTC)

    def texts(self, name: str) -> list[str]:
        value = self._take(name)
        if value is None or value == "":
            return []
        items = _list(value)
        if items is None or not all(isinstance(item, str) for item in items):
            raise self._wrong(name, "is a list")
        if any(holds_card_number(item) for item in items):
            raise self._wrong(name, "must not hold a card number")
        return items

    def object(self, name: str) -> Params | None:
        value = self._take(name)
        if value is None or value == "":
            return None
        if not isinstance(value, dict):
            raise self._wrong(name, "is an object")
        self._inner.append(Params(value, self._name(name)))
        return self._inner[-1]

    def objects(self, name: str) -> list[Params]:
        value = self._take(name)
        if value is None or value == "":
            return []
        items = _list(value)
        if items is None or not all(isinstance(item, dict) for item in items):
            raise self._wrong(name, "is a list of objects")
        made = [Params(item, f"{self._name(name)}[{i}]") for i, item in enumerate(items)]
        self._inner += made
        return made

    def metadata(self, name: str = "metadata") -> dict[str, str] | None:
        """A flat map of texts within Stripe's limits; None when absent. An empty value removes its key."""
        if not self.given(name):
            return None
        value = self._take(name)
        if value == "":
            return {}
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise self._wrong(name, "is a map of texts")
        if len(value) > METADATA_KEYS:
            raise self._wrong(name, f"has at most {METADATA_KEYS} keys")
        if any(len(key) > METADATA_KEY or len(item) > METADATA_VALUE for key, item in value.items()):
            raise self._wrong(name, f"has keys of {METADATA_KEY} and values of {METADATA_VALUE} characters at most")
        return value

    def ignore(self, *names: str) -> None:
        """Accepted for callers' sake, and without effect here."""
        self._read.update(names)

    def rest(self) -> int:
        """How many parameters of this level nobody read; they count as read from here on."""
        left = [name for name in self._tree if name not in self._read]
        self._read.update(left)
        return sum(bool(self._tree[name]) for name in left)

    def end(self) -> None:
        """Refuse what nobody asked for: a misspelt parameter must not pass in silence."""
        for inner in self._inner:
            inner.end()
        for name in self._tree:
            if name not in self._read:
                known = shown(self._name(name))
                raise ApiError(400, f"{f'Parameter {known}' if known else 'A parameter'} is unknown: leave it out.",
                               code="parameter_unknown", param=known)

    def absent(self, name: str) -> ApiError:
        return ApiError(400, f"Parameter {self._name(name)} is missing: send it.", code="parameter_missing",
                        param=self._name(name))

    def _take(self, name: str) -> Any:
        self._read.add(name)
        return self._tree.get(name)

    def _name(self, name: str) -> str:
        return f"{self._path}[{name}]" if self._path else name

    def _wrong(self, name: str, rule: str, code: str | None = None) -> ApiError:
        return ApiError(400, f"Parameter {self._name(name)} {rule}: correct it.",
                        code=code or "parameter_invalid", param=self._name(name))
