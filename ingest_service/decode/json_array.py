"""Cuts the elements of one JSON array, at the top or under a path of names, into blocks of rows, in bounded memory.

Reads only brackets, strings and commas; never parses an element. What breaks the array itself fails the object, what is
wrong within an element is that row's matter.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from itertools import accumulate, chain, islice
from operator import indexOf
from typing import NoReturn, TypeAlias

import orjson

from ingest_service.decode.model import Block, DecodeLimits, MalformedObject
from ingest_service.decode.scalars import shown
from ingest_service.decode.splitter import FIRST_BLOCK_BYTES, too_long
from ingest_service.rejects import Reject

_WHITE = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR = rb'[^ \t\r\n,:\[\]{}"]++'
# Elements nested deeper are cut one by one, at a tenth of the speed or less.
_FAST_DEPTH = 6


def _nested(depth: int) -> bytes:
    """An object or array with at most `depth` more of them within each other."""
    inner = rb"(?:" + _STRING + (rb"|" + _nested(depth - 1) if depth else b"") + rb")"
    return rb'[\[{][^\[\]{}"]*+(?:' + inner + rb'[^\[\]{}"]*+)*+[\]}]'


# White space, an element, and what ends it; or, in no group, all that is left.
ELEMENTS = re.compile(
    rb"(" + _WHITE + rb")(" + _nested(_FAST_DEPTH) + rb"|" + _STRING + rb"|" + _SCALAR + rb")"
    rb"(" + _WHITE + rb"(?:,|(?=\])))|.++",
    re.DOTALL,
)  # fmt: skip
WHITE, STRING, SCALAR = (re.compile(text, re.DOTALL) for text in (_WHITE, _STRING, _SCALAR))
# Up to a string that has not ended yet.
WHOLE = re.compile(rb'(?:[^"]++|' + _STRING + rb")*+", re.DOTALL)
BRACKETS = re.compile(_STRING + rb"|([\[\]{}])", re.DOTALL)
# By how much a bracket goes deeper, as a signed byte.
DEEPER = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
# Brackets are counted in windows that double, so that little is read past the end of a short value.
FIRST_WINDOW_BYTES, LAST_WINDOW_BYTES = 64, 64 * 1024
STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)

# What the parser yields: a block, or None where it needs more bytes.
_Steps: TypeAlias = "Generator[Block | None, None, None]"
_Byte: TypeAlias = "Generator[Block | None, None, bytes]"


class ArraySplitter:
    """Push bytes, pull blocks, as Splitter. A block's rows are numbered by their place in the array, from 1, and
    `Block.lines` says on which line each begins. Holds at most `max_row_bytes` plus one piece.

    Raises MalformedObject: TRUNCATED_JSON, MALFORMED_JSON, MISSING_JSON_PATH.
    """

    def __init__(self, path: Sequence[str], limits: DecodeLimits, first_line: int) -> None:
        self._limits = limits
        self._parts: list[bytes] = []
        self._size = 0
        self._want = 0
        self._final = False
        self._data = b""
        self._at = 0
        self._line = first_line
        self._number = 1
        self._rows: list[bytes] = []
        self._lines: list[int] = []
        self._rows_bytes = 0
        self._block_bytes = min(limits.block_bytes, FIRST_BLOCK_BYTES)
        self._steps = self._document(tuple(path))

    def feed(self, piece: bytes) -> Iterator[Block]:
        """The blocks that are complete after this piece."""
        self._parts.append(piece)
        self._size += len(piece)
        if self._size >= self._want:
            yield from self._run()

    def finish(self) -> Iterator[Block]:
        """The last blocks; raises where the array has not ended."""
        self._final = True
        yield from self._run()

    def _run(self) -> Iterator[Block]:
        self._data, self._at = b"".join((self._data[self._at :], *self._parts)), 0
        self._parts, self._size = [], 0
        for block in self._steps:
            if block is None:
                return
            yield block

    def _document(self, path: Sequence[str]) -> _Steps:
        for name in path:
            yield from self._expect(b"{", f"an object with {shown(name)}")
            yield from self._enter(name)
        yield from self._expect(b"[", "an array")
        yield from self._elements()
        for name in reversed(path):
            yield from self._leave(name)
        while True:  # only white space may follow
            self._skip(WHITE)
            if self._at < len(self._data):
                self._fail("something follows the end of the JSON")
            if self._final:
                return
            yield None

    def _enter(self, name: str) -> _Steps:
        """Up to the value of the object's member of this name, past all before it."""
        found = yield from self._member(first=True)
        while found != name:
            if found is None:
                message = f"the JSON has no member {shown(name)} where json_path looks for it"
                raise MalformedObject(message, reason="MISSING_JSON_PATH")
            yield from self._pass_value()
            found = yield from self._member(first=False)

    def _leave(self, name: str) -> _Steps:
        """Past the object's other members and its end. Another of this name would hold rows that nobody reads."""
        while (found := (yield from self._member(first=False))) is not None:
            if found == name:
                self._fail(f"the member {shown(name)} stands twice")
            yield from self._pass_value()

    def _member(self, *, first: bool) -> Generator[Block | None, None, str | None]:
        """Up to the value of the object's next member, whose name it gives; None, and past the end, after the last."""
        if (yield from self._peek()) == b"}":
            self._advance(self._at + 1)
            return None
        if not first:
            yield from self._expect(b",", "a comma or the end of the object")
        name = yield from self._name()
        yield from self._expect(b":", "a colon")
        return name

    def _elements(self) -> _Steps:
        """All elements and the end of the array."""
        if (yield from self._peek()) != b"]":
            ended = False
            while not ended:
                if len(self._data) - self._at < self._block_bytes and not self._final:
                    yield from self._more(self._block_bytes)
                ended = self._take_run()
                while not ended and self._at < len(self._data) and (end := self._value_end()) is not None:
                    self._take(self._data[self._at : end])
                    ended = yield from self._separator()
                yield from self._blocks(everything=False)
                if not ended and len(self._data) - self._at > self._limits.max_row_bytes:
                    self._take(self._data[self._at : self._at + self._limits.max_row_bytes + 1], consume=False)
                    yield from self._pass_value()
                    ended = yield from self._separator()
                elif not ended:
                    yield from self._twice()
            yield from self._blocks(everything=True)
        self._advance(self._at + 1)

    def _take_run(self) -> bool:
        """Takes the elements that are cut in one pass; whether the array ends with them."""
        found = ELEMENTS.findall(self._data, self._at)
        if found and not found[-1][1]:
            found.pop()
        if not found:
            self._skip(WHITE)
            return False
        end = self._at + sum(map(len, chain.from_iterable(found)))
        if self._data.count(b"\n", self._at, end):
            for before, element, after in found:
                self._line += before.count(b"\n")
                self._lines.append(self._line)
                self._line += element.count(b"\n") + after.count(b"\n")
        else:
            self._lines += [self._line] * len(found)
        self._rows += [element for _, element, _ in found]
        self._rows_bytes += end - self._at
        self._at = end
        self._skip(WHITE)
        return not found[-1][2].endswith(b",")

    def _take(self, element: bytes, *, consume: bool = True) -> None:
        self._rows.append(element)
        self._lines.append(self._line)
        self._rows_bytes += len(element)
        if consume:
            self._advance(self._at + len(element))

    def _separator(self) -> Generator[Block | None, None, bool]:
        """Past a comma and to the element after it; True, and not past it, at the end of the array."""
        if (yield from self._peek()) == b"]":
            return True
        yield from self._expect(b",", "a comma or the end of the array")
        if (yield from self._peek()) == b"]":
            self._fail("the array ends with a comma")
        return False

    def _value_end(self) -> int | None:
        """Where the value that begins here ends; None where that is not known yet."""
        data, at = self._data, self._at
        if data[at] in b",:}]":
            self._fail("a value is expected")
        if data[at] in b"{[":
            end, depth = past_brackets(data, at, 0)
            return None if depth else end
        match = (STRING if data[at] in b'"' else SCALAR).match(data, at)
        if match is None or (match.end() == len(data) and data[at] not in b'"'):
            return None
        return match.end()

    def _blocks(self, *, everything: bool) -> Iterator[Block]:
        """The elements taken so far, once they fill a block."""
        while self._rows and (everything or self._rows_bytes >= self._block_bytes):
            count = min(len(self._rows), self._limits.block_rows)
            yield self._block(self._rows[:count], self._lines[:count])
            del self._rows[:count], self._lines[:count]
            self._rows_bytes = sum(map(len, self._rows))

    def _block(self, elements: list[bytes], lines: list[int]) -> Block:
        limit = self._limits.max_row_bytes
        rejects: list[Reject] = []
        if max(map(len, elements)) > limit:
            places = [place for place, element in enumerate(elements) if len(element) > limit]
            rejects = [too_long(self._number + place, elements[place], limit) for place in places]
            elements = [b"" if len(element) > limit else element for element in elements]
        if lines[-1] > lines[0] or b"\n" in elements[-1]:
            # A line end is white space within an element, and so is CR; within a string neither is valid.
            elements = [element.replace(b"\n", b"\r") for element in elements]
        data = b"\n".join([*elements, b""])
        block = Block(ordinal=0, first_line=self._number, data=data, rejects=tuple(rejects), lines=tuple(lines))
        self._number += len(elements)
        self._block_bytes = self._limits.block_bytes
        return block

    def _pass_value(self) -> _Steps:
        """Past a value of any size."""
        byte = yield from self._peek()
        if byte == b'"':
            yield from self._pass_string()
        elif byte in (b"{", b"["):
            yield from self._pass_nested()
        elif byte in (b"}", b"]", b",", b":"):
            self._fail("a value is expected")
        else:
            yield from self._pass_scalar()

    def _pass_nested(self) -> _Steps:
        end, depth = past_brackets(self._data, self._at, 0)
        self._advance(end)
        while depth:
            if self._at < len(self._data):
                yield from self._pass_string()
            else:
                yield from self._more()
            end, depth = past_brackets(self._data, self._at, depth)
            self._advance(end)

    def _pass_string(self) -> _Steps:
        self._advance(self._at + 1)
        while True:
            self._skip(STRING_REST)
            if self._data[self._at : self._at + 1] == b'"':
                self._advance(self._at + 1)
                return
            yield from self._more()

    def _pass_scalar(self) -> _Steps:
        self._skip(SCALAR)
        while self._at == len(self._data):
            yield from self._more()
            self._skip(SCALAR)

    def _name(self) -> Generator[Block | None, None, str]:
        """A member's name."""
        if (yield from self._peek()) != b'"':
            self._fail("a name is expected")
        while (match := STRING.match(self._data, self._at)) is None:
            if len(self._data) - self._at > self._limits.max_row_bytes:
                self._fail("a name is too long")
            yield from self._twice()
        self._advance(match.end())
        try:
            name: str = orjson.loads(match.group())
        except orjson.JSONDecodeError as exc:
            self._fail(f"a name is no JSON string: {exc.msg}")
        return name

    def _expect(self, wanted: bytes, what: str) -> _Steps:
        if (yield from self._peek()) != wanted:
            self._fail(f"{what} is expected")
        self._advance(self._at + 1)

    def _peek(self) -> _Byte:
        """The next byte that is no white space, which is not consumed."""
        while True:
            self._skip(WHITE)
            if self._at < len(self._data):
                return self._data[self._at : self._at + 1]
            yield from self._more()

    def _more(self, want: int = 0) -> _Steps:
        """Waits for `want` bytes more, or any."""
        if self._final:
            raise MalformedObject("the JSON ends in the middle; the file is cut off", reason="TRUNCATED_JSON")
        self._want = want
        yield None

    def _twice(self) -> _Steps:
        """Waits until what has not ended yet has doubled, or is too long: looked at so, it is linear work."""
        left = len(self._data) - self._at
        yield from self._more(min(left, self._limits.max_row_bytes + 1 - left))

    def _skip(self, pattern: re.Pattern[bytes]) -> None:
        match = pattern.match(self._data, self._at)
        if match:
            self._advance(match.end())

    def _advance(self, end: int) -> None:
        self._line += self._data.count(b"\n", self._at, end)
        self._at = end

    def _fail(self, problem: str) -> NoReturn:
        raise MalformedObject(f"line {self._line}: {problem}", reason="MALFORMED_JSON")


def past_brackets(data: bytes, at: int, depth: int) -> tuple[int, int]:
    """Where all brackets are closed, `depth` of which are open at `at`, and 0. Where they are not in this data: where
    it ends, or its last string that has not ended begins, and how many are open there.
    """
    window = FIRST_WINDOW_BYTES
    while match := WHOLE.match(data, at, at + window):
        steps = memoryview(STRING.sub(b"", match.group()).translate(DEEPER, NO_BRACKETS)).cast("b")
        if -depth in accumulate(steps):
            ends = (found.end() for found in BRACKETS.finditer(data, at) if found.lastindex)
            return next(islice(ends, indexOf(accumulate(steps), -depth), None)), 0
        depth += sum(steps)
        if match.end() == at and at + window >= len(data):
            break
        # Only a string that is longer than the window makes it grow further.
        window = 2 * window if match.end() == at else min(2 * window, LAST_WINDOW_BYTES)
        at = match.end()
    return at, depth
