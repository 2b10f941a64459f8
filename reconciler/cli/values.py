"""Words of a command line into numbers: durations, points in time, sizes, KEY=VALUE pairs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from typing import Any

import click

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d|w)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)i?b?", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Seconds of "1h30m", "500ms" or a plain number of seconds; ValueError otherwise."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    total, position = 0.0, 0
    for match in _DURATION.finditer(text):
        if match.start() != position:
            break
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not text or position != len(text):
        raise ValueError(f'"{text}" is no duration (examples: 90s, 1m30s, 500ms)')
    return total


def parse_size(text: str) -> int:
    """Bytes of "512m", "1.5g" or a plain number; units are powers of 1024 as docker's."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f'"{text}" is no size (examples: 512m, 1.5g)')
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))


def parse_moment(text: str, now: float | None = None) -> float:
    """A point in time: RFC 3339, seconds since the epoch, or a duration back from now."""
    present = time.time() if now is None else now
    if re.fullmatch(r"\d{9,}(\.\d+)?", text):
        return float(text)
    try:
        return present - parse_duration(text)
    except ValueError:
        pass
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f'"{text}" is neither a duration (10m) nor a time (2026-11-21T10:00:00Z)') from None
    return (moment if moment.tzinfo else moment.astimezone()).astimezone(UTC).timestamp()


def parse_pairs(texts: Iterable[str], what: str) -> dict[str, str]:
    """KEY=VALUE words; a KEY alone has an empty value."""
    pairs = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key:
            raise click.BadParameter(f'"{text}" has no name', param_hint=what)
        pairs[key] = value
    return pairs


def parse_environment(texts: Iterable[str], files: Iterable[str]) -> dict[str, str]:
    """`-e` words over `--env-file` lines; a name alone takes its value from our own environment, when it is there."""
    words: list[str] = []
    for path in files:
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise click.BadParameter(f'cannot read "{path}": {cause}', param_hint="--env-file") from error
        words += [line.lstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    result: dict[str, str] = {}
    for word in [*words, *texts]:
        name, is_given, value = word.partition("=")
        if not name or any(char.isspace() for char in name):
            raise click.BadParameter(f'"{word}" is not NAME=VALUE', param_hint="--env")
        if is_given:
            result[name] = value
        elif name in os.environ:
            result[name] = os.environ[name]
    return result


class Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType[int]):
    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Moment(click.ParamType[float]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_moment(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
SIZE = Size()
MOMENT = Moment()
