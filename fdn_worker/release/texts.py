"""Check `text`: limits of a plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from fdn_worker.launchers.options import Options, read_options
from fdn_worker.release.kinds import CONTROL, open_plain


class TextOptions(Options):
    max_lines: Annotated[int, Field(ge=0)] | None = None
    #: Characters of a line at most.
    max_line: Annotated[int, Field(ge=1)] = 10_000
    #: Regular expressions of which none may be found in a line.
    forbidden: tuple[str, ...] = ()

    @field_validator("forbidden")
    @classmethod
    def _compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return value


class TextCheck:
    """UTF-8 without control codes, within limits."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = read_options(TextOptions, "release.rules.checks.text", options)
        self._forbidden = [re.compile(pattern) for pattern in self._options.forbidden]

    def findings(self, file: Path) -> Iterator[str]:
        """The first of each sort."""
        try:
            with open(open_plain(file), encoding="utf-8") as text:
                yield from self._read(text)
        except UnicodeDecodeError as error:
            yield f"it is not UTF-8: {error}"

    def _read(self, text: Any) -> Iterator[str]:
        options, said = self._options, set[str]()
        number = 0
        while line := text.readline(options.max_line + 2):
            number += 1
            if options.max_lines is not None and number > options.max_lines:
                yield f"it has more than {options.max_lines:,} lines"
                return
            body = line.rstrip("\n")
            if len(body) > options.max_line:
                yield f"line {number:,} has more than {options.max_line:,} characters"
                return
            found = [f"matches {pattern.pattern!r}" for pattern in self._forbidden if pattern.search(body)]
            if CONTROL.search(body):
                found.append("has a control code")
            for what in found:
                if what not in said:
                    said.add(what)
                    yield f"line {number:,} {what}"
