"""Prices of cards, as people keep them: CSV, JSON or YAML."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner import strict_json
from planner.errors import InputError
from planner.hardware.catalogue import find_gpu
from planner.text import printable, shown


def read_prices(path: Path) -> dict[str, float]:
    """Card -> price of one for an hour, from JSON or YAML {"H100": 2.5} or CSV lines `H100,2.5`."""
    return parse_prices(strict_json.read_text(path, printable(path)), path.suffix, printable(path))


def parse_prices(text: str, suffix: str, where: str) -> dict[str, float]:
    """As read_prices, of a text. suffix: ".csv", ".yaml" or else JSON. where: what an InputError names."""
    prices: dict[str, float] = {}
    for name, price in _pairs(text, suffix.lower(), where):
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < 1e9:
            raise InputError(f"{where}: price of {shown(name)} = {shown(price)}: must be a number of at least 0")
        try:
            card = find_gpu(str(name)).name
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if prices.setdefault(card, float(price)) != price:
            raise InputError(f"{where}: {card} has two prices, {prices[card]:g} and {price:g}; keep one")
    return prices


def _pairs(text: str, suffix: str, where: str) -> list[tuple[Any, Any]]:
    if suffix == ".csv":
        return list(_csv_pairs(text, where))
    if suffix in (".yaml", ".yml"):
        import yaml

        try:
            values = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date with a 13th month
            raise InputError(f"{where}: not valid YAML: {(str(error).splitlines() or ['unreadable'])[0]}") from error
    else:
        values = strict_json.parse(text, where)
    if not isinstance(values, dict):
        raise InputError(f"{where}: must be an object of cards and prices")
    return list(values.items())


def _csv_pairs(text: str, where: str) -> Iterator[tuple[str, float | str]]:
    try:
        for row in csv.reader(text.splitlines()):
            if not any(cell.strip() for cell in row) or row[0].startswith("#"):
                continue
            if len(row) < 2:
                raise InputError(f"{where}: {shown(','.join(row))}: must be a card and its price")
            if row[0].strip().lower() not in ("gpu", "card", "name"):
                yield row[0].strip(), _number(row[1])
    except csv.Error as error:  # a field that never ends
        raise InputError(f"{where}: not valid CSV: {error}") from error


def _number(text: str) -> float | str:
    """What a cell of a CSV file says, where that is a number."""
    try:
        return float(text)
    except ValueError:
        return text
