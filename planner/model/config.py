"""A typed read-only view of a config.json that explains what is wrong with it.

    config = load_config("Qwen/Qwen3-32B").config    # source.py
    config.int("hidden_size")                        # checked: a whole number of at least 1
    config.section("text_config").int("hidden_size") # messages say text_config.hidden_size

A missing key gets the default of transformers' own config class (transformers_defaults.py). Every fault is an
InputError of one line that names the file and the key.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NoReturn, TypeVar

from planner.errors import InputError
from planner.model import transformers_defaults
from planner.text import printable, shown

_T = TypeVar("_T")

CONFIG_FILE = "config.json"
MAX_LAYERS = 2048
"""The most that are counted, of decoders and towers alike; the deepest real model has 126."""
_COUNTS_LAYERS = ("layers", "layer", "depth")
"""How the keys end that say so."""


class _Unset(Enum):
    UNSET = 0


_UNSET: Final = _Unset.UNSET


class Config:
    """A JSON object, read by key and type. `path` tells where a key is ("text_config.hidden_size") for messages.

    Methods named after a type (`int`, `str` …) take a `default` for a key that is missing. Without one they take that
    of transformers' class for this `model_type`, and where that has none either they raise InputError. The `optional_`
    ones return None instead. `null` counts as missing, except that a class's default never replaces an explicit null.
    """

    __slots__ = ("_defaults", "_prefix", "_section_type", "_values", "where")

    def __init__(
        self,
        values: Mapping[builtins.str, Any],
        *,
        where: builtins.str = CONFIG_FILE,
        prefix: builtins.str = "",
        section_type: builtins.str | None = None,
    ) -> None:
        self._values = values
        self._prefix = prefix
        # The model_type of a section that does not state one, or None at the top.
        self._section_type = section_type
        self._defaults: transformers_defaults.ClassDefaults | _Unset | None = _UNSET
        self.where = where

    def __repr__(self) -> builtins.str:
        return (
            f"Config({self.where}{': ' + self._prefix.rstrip('.') if self._prefix else ''}, {len(self._values)} keys)"
        )

    @property
    def values(self) -> Mapping[builtins.str, Any]:
        """The keys as they stand in the file."""
        return self._values

    def keys(self) -> Iterable[builtins.str]:
        """The names of the keys that are there, null ones included."""
        return self._values.keys()

    def path(self, key: builtins.str) -> builtins.str:
        """The key as a message names it, from the top of the file."""
        return self._prefix + printable(key)

    def error(self, key: builtins.str, problem: builtins.str) -> InputError:
        """An InputError about a key: "FILE: KEY problem"."""
        return InputError(f"{self.where}: {self.path(key)} {problem}")

    def has(self, key: builtins.str) -> builtins.bool:
        """Whether the file gives the key, under this name or one that transformers takes for the same."""
        return self._find(key)[1] is not None

    def has_default(self, key: builtins.str) -> builtins.bool:
        """Whether transformers' class gives the key a value of its own."""
        return self._class_default(key) is not None

    def raw(self, key: builtins.str, default: Any = None) -> Any:
        """What the file has under the key, unchecked; `default` where it has nothing or null."""
        value = self._find(key)[1]
        return default if value is None else value

    def first_of(self, keys: Sequence[builtins.str]) -> builtins.str:
        """The first of these keys that the file gives, else the first that transformers' class has, else keys[0].

        For what configs name differently: `config.int(config.first_of(("num_experts", "num_local_experts")))`.
        """
        for key in keys:
            if self._values.get(key) is not None:
                return key
        for key in keys:
            if self.has(key) or self.has_default(key):
                return key
        return keys[0]

    def section(self, key: builtins.str) -> Config:
        """The object under a key.

        Where the file has none and transformers' class makes one by itself: what that gives. Configs from before there
        were sections have the keys of `text_config` at the top; transformers passes them on, and so does this.
        """
        name, value = self._find(key)
        known = self._class()
        section_type = known.sections.get(name) if known is not None else None
        prefix = f"{self.path(name)}."
        if value is None:
            if known is None or section_type is None:
                self._missing(key)
            value = known.absent.get(name, {})
            if name == "text_config" and self._values.get("hidden_size") and not known.has("hidden_size"):
                value, prefix = {k: v for k, v in self._values.items() if k != "model_type"}, self._prefix
        if not isinstance(value, dict):
            raise self._wrong(name, "must be an object", value)
        return Config(value, where=self.where, prefix=prefix, section_type=section_type or f"{self._type()}.{name}")

    def replaced(self, values: Mapping[builtins.str, Any]) -> Config:
        """The same object with some keys' values replaced."""
        return Config(
            {**self._values, **values}, where=self.where, prefix=self._prefix, section_type=self._section_type
        )

    def optional_section(self, key: builtins.str) -> Config | None:
        """The object under a key, or None where the file has none."""
        return self.section(key) if self.has(key) else None

    def sections(self, key: builtins.str) -> tuple[Config, ...]:
        """The objects in the list under a key."""
        name, value = self._find(key)
        if value is None:
            self._missing(key)
        if not isinstance(value, list):
            raise self._wrong(name, "must be a list of objects", value)
        for i, item in enumerate(value):
            if not isinstance(item, dict):
                raise self._wrong(f"{name}[{i}]", "must be an object", item)
        type_ = f"{self._type()}.{name}"
        return tuple(
            Config(item, where=self.where, prefix=f"{self.path(name)}[{i}].", section_type=type_)
            for i, item in enumerate(value)
        )

    # The methods below shadow builtins in this class body; annotations in it say builtins.int and so on.

    def number(
        self,
        key: builtins.str,
        default: builtins.float | _Unset = _UNSET,
        *,
        minimum: builtins.float = -math.inf,
        maximum: builtins.float = math.inf,
    ) -> builtins.float:
        """A finite number, whole or not."""
        return self._required(key, default, lambda k, v: self._check_number(k, v, minimum, maximum))

    def optional_number(
        self,
        key: builtins.str,
        default: builtins.float | _Unset | None = _UNSET,
        *,
        minimum: builtins.float = -math.inf,
        maximum: builtins.float = math.inf,
    ) -> builtins.float | None:
        """A number or None. Raises InputError for another type, or one outside minimum and maximum."""
        return self._optional(key, default, lambda k, v: self._check_number(k, v, minimum, maximum))

    def ints(
        self,
        key: builtins.str,
        default: Sequence[builtins.int] | _Unset = _UNSET,
        *,
        minimum: builtins.int = 0,
        maximum: builtins.int = 2**40,
    ) -> tuple[builtins.int, ...]:
        """A list of whole numbers."""

        def check(name: builtins.str, value: Any) -> tuple[builtins.int, ...]:
            if not isinstance(value, (list, tuple)):
                raise self._wrong(name, "must be a list of whole numbers", value)
            return tuple(self._check_int(f"{name}[{i}]", item, minimum, maximum) for i, item in enumerate(value))

        return self._required(key, default if isinstance(default, _Unset) else tuple(default), check)

    def strs(self, key: builtins.str, default: Sequence[builtins.str] | _Unset = _UNSET) -> tuple[builtins.str, ...]:
        """A list of strings."""

        def check(name: builtins.str, value: Any) -> tuple[builtins.str, ...]:
            if not isinstance(value, (list, tuple)):
                raise self._wrong(name, "must be a list of strings", value)
            return tuple(self._check_str(f"{name}[{i}]", item) for i, item in enumerate(value))

        return self._required(key, default if isinstance(default, _Unset) else tuple(default), check)

    def bool(self, key: builtins.str, default: builtins.bool | _Unset = _UNSET) -> builtins.bool:
        """True or false. Raises InputError for another type, and for a missing key without a default."""
        return self._required(key, default, self._check_bool)

    def str(self, key: builtins.str, default: builtins.str | _Unset = _UNSET) -> builtins.str:
        """A text. Raises InputError for another type, and for a missing key without a default."""
        return self._required(key, default, self._check_str)

    def optional_str(self, key: builtins.str, default: builtins.str | _Unset | None = _UNSET) -> builtins.str | None:
        """A text or None. Raises InputError for another type."""
        return self._optional(key, default, self._check_str)

    def optional_int(
        self,
        key: builtins.str,
        default: builtins.int | _Unset | None = _UNSET,
        *,
        minimum: builtins.int = 0,
        maximum: builtins.int = 2**40,
    ) -> builtins.int | None:
        """A whole number or None. Raises InputError for another type, or one outside minimum and maximum."""
        return self._optional(key, default, lambda k, v: self._check_int(k, v, minimum, maximum))

    def int(
        self,
        key: builtins.str,
        default: builtins.int | _Unset = _UNSET,
        *,
        minimum: builtins.int = 1,
        maximum: builtins.int = 2**40,
    ) -> builtins.int:
        """A whole number within bounds; of layers, at most MAX_LAYERS."""
        return self._required(key, default, lambda k, v: self._check_int(k, v, minimum, maximum))

    # -- finding ------------------------------------------------------------------------------------------------------

    def _find(self, key: builtins.str) -> tuple[builtins.str, Any]:
        """The name under which the file gives `key`, and the value; (key, None) where it does not."""
        value = self._values.get(key)
        if value is not None:
            return key, value
        for alias in self._aliases(key):
            value = self._values.get(alias)
            if value is not None:
                return alias, value
        return key, None

    def _required(self, key: builtins.str, default: _T | _Unset, check: Callable[[builtins.str, Any], _T]) -> _T:
        name, value = self._find(key)
        if value is not None:
            return check(name, value)
        if not isinstance(default, _Unset):
            return default
        if self._explicit_null(key):
            raise self.error(key, "is null; give a value or leave it out")
        value = self._class_default(key)
        if value is None and self._prefix == "" and self._class() is None:
            value = transformers_defaults.from_transformers(self._type(), key)
        if value is None:
            self._missing(key)
        return check(key, value)

    def _optional(
        self, key: builtins.str, default: _T | _Unset | None, check: Callable[[builtins.str, Any], _T]
    ) -> _T | None:
        name, value = self._find(key)
        if value is not None:
            return check(name, value)
        if not isinstance(default, _Unset):
            return default
        if self._explicit_null(key):
            return None
        value = self._class_default(key)
        return None if value is None else check(key, value)

    def _explicit_null(self, key: builtins.str) -> builtins.bool:
        return key in self._values or any(alias in self._values for alias in self._aliases(key))

    def _missing(self, key: builtins.str) -> NoReturn:
        raise InputError(f"{self.where}: {self.path(key)} is missing; add it")

    # -- transformers' class ------------------------------------------------------------------------------------------

    def _type(self) -> builtins.str:
        own = self._values.get("model_type")
        if isinstance(own, builtins.str) and own:
            return own
        return self._section_type or ""

    def _class(self) -> transformers_defaults.ClassDefaults | None:
        if isinstance(self._defaults, _Unset):
            found = transformers_defaults.of_type(self._type())
            if found is None and self._section_type is not None:
                found = transformers_defaults.of_type(self._section_type)
            self._defaults = found
        return self._defaults

    def _class_default(self, key: builtins.str) -> Any:
        known = self._class()
        if known is None:
            return None
        for name in (key, *known.aliases(key)):
            value = known.values.get(name)
            if value is not None:
                return value
        return None

    def _aliases(self, key: builtins.str) -> Sequence[builtins.str]:
        known = self._class()
        return () if known is None else known.aliases(key)

    # -- checking -----------------------------------------------------------------------------------------------------

    def _wrong(self, key: builtins.str, must: builtins.str, value: Any) -> InputError:
        kind = " (a string)" if isinstance(value, builtins.str) else ""
        return InputError(f"{self.where}: {self.path(key)} {must}, is {shown(value)}{kind}")

    def _check_int(self, key: builtins.str, value: Any, minimum: builtins.int, maximum: builtins.int) -> builtins.int:
        if not isinstance(value, builtins.int) or isinstance(value, builtins.bool):
            raise self._wrong(key, "must be a whole number", value)
        if value < minimum:
            raise self._wrong(key, f"must be at least {minimum}", value)
        if MAX_LAYERS < value <= maximum and key.endswith(_COUNTS_LAYERS):
            maximum = MAX_LAYERS
        if value > maximum:
            raise self._wrong(key, f"must be at most {maximum}", value)
        return value

    def _check_number(
        self, key: builtins.str, value: Any, minimum: builtins.float, maximum: builtins.float
    ) -> builtins.float:
        if not isinstance(value, (builtins.int, builtins.float)) or isinstance(value, builtins.bool):
            raise self._wrong(key, "must be a number", value)
        if not -1e300 < value < 1e300:
            raise self._wrong(key, "must be a number of a size that occurs", value)
        if value < minimum:
            raise self._wrong(key, f"must be at least {minimum:g}", value)
        if value > maximum:
            raise self._wrong(key, f"must be at most {maximum:g}", value)
        return value

    def _check_bool(self, key: builtins.str, value: Any) -> builtins.bool:
        if not isinstance(value, builtins.bool):
            raise self._wrong(key, "must be true or false", value)
        return value

    def _check_str(self, key: builtins.str, value: Any) -> builtins.str:
        if not isinstance(value, builtins.str):
            raise self._wrong(key, "must be a string", value)
        return value
