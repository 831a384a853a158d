"""Reads the sources file (PENSTOCK_SOURCES): YAML text in, sources out, or every problem at once. Pure.

It works on YAML's nodes and not on loaded values: they know their line, duplicate keys, and `on` from "on".
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ingest_service.decode import Dialect
from ingest_service.sources import ANY_FOLDERS, Source, Sources, covers
from shared.errors import ConfigError

_MAX_BYTES = 1024 * 1024
_MAX_KEY_BYTES = 1024
_MEMBERS = ("dataset", "bucket", "prefix", "suffix", "glob", "parts", "dialect")
# docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, with what buckets of before 2018 may have.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_STRING, _BOOL, _NULL = (f"tag:yaml.org,2002:{name}" for name in ("str", "bool", "null"))


def read_sources(
    text: str,
    *,
    name: str,
    datasets: Collection[str],
    snapshots: Collection[str] = (),
    more_buckets: Collection[str] = (),
) -> Sources:
    """The sources of a file called `name`, all of them of known `datasets`; `snapshots` are those that may come in
    parts.

    Raises ConfigError whose lines read `name:line: path in the document: what to do`.
    """
    reading = _Reading(name, frozenset(datasets), frozenset(snapshots))
    sources = tuple(reading.document(text))
    if reading.problems:
        raise ConfigError("\n".join(reading.problems), reason="SOURCES_INVALID")
    return Sources(sources=sources, more_buckets=frozenset(more_buckets))


@dataclass(frozen=True, slots=True, kw_only=True)
class _At:
    """A place in the document."""

    node: yaml.Node
    path: str


class _Reading:
    """One pass over one document; `problems` grows on the way."""

    def __init__(self, name: str, datasets: frozenset[str], snapshots: frozenset[str]) -> None:
        self.problems: list[str] = []
        self._name = name
        self._datasets = datasets
        self._snapshots = snapshots

    def document(self, text: str) -> Iterator[Source]:
        root = self._composed(text)
        if root is None:
            return
        members = self._members(_At(node=root, path=""), ("sources",))
        if members is None:
            return
        if "sources" not in members:
            self._problem(_At(node=root, path="sources"), "is missing: list the sources under it")
            return
        known: list[tuple[_At, Source]] = []
        for at in self._items(members["sources"], "sources, one `- dataset: ...` each"):
            source = self._source(at)
            if source is not None:
                self._check_reached(at, source, known)
                known.append((at, source))
                yield source

    def _composed(self, text: str) -> yaml.Node | None:
        if len(text.encode()) > _MAX_BYTES:
            self.problems.append(f"{self._name}: is larger than {_MAX_BYTES} bytes: it is no sources file")
            return None
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError) as exc:
            mark = getattr(exc, "problem_mark", None)
            where = f"{self._name}:{mark.line + 1}" if mark else self._name
            self.problems.append(f"{where}: is not YAML: {getattr(exc, 'problem', None) or exc}")
            return None
        if root is None:
            self.problems.append(f"{self._name}:1: is empty: list the sources under `sources`")
        return root

    def _source(self, at: _At) -> Source | None:
        before = len(self.problems)
        members = self._members(at, _MEMBERS)
        if members is None:
            return None
        readers = {"dialect": self._dialect, "parts": self._flag}
        values: dict[str, Any] = {member: readers.get(member, self._text)(found) for member, found in members.items()}
        for member, what in (("dataset", "the dataset to load into"), ("bucket", "the bucket that the objects are in")):
            if member not in values:
                self._problem(at, f"has no {member}: name {what}")
        for member, check in (("dataset", self._dataset), ("bucket", self._bucket), ("glob", self._glob)):
            if values.get(member):
                check(members[member], values[member])
        for member in ("prefix", "suffix"):
            if member in values:
                self._part_of_key(members[member], values[member])
        if values.get("parts"):
            self._parts(members["parts"], values.get("dataset", ""))
        return Source(**values) if len(self.problems) == before else None

    def _dialect(self, at: _At) -> Dialect | None:
        """The members are the fields of Dialect, which says itself what they may hold."""
        kinds = typing.get_type_hints(Dialect)
        members = self._members(at, tuple(field.name for field in dataclasses.fields(Dialect)))
        before = len(self.problems)
        values = {name: self._value(found, kinds[name]) for name, found in (members or {}).items()}
        if members is None or len(self.problems) > before:
            return None
        try:
            return Dialect(**values)
        except ValueError as exc:
            self._problem(at, str(exc))
            return None

    def _value(self, at: _At, kind: Any) -> Any:
        """A value of one of the kinds that Dialect has: text, a list of texts, yes or no, perhaps none of it."""
        kinds = typing.get_args(kind) if type(None) in typing.get_args(kind) else (kind,)
        if at.node.tag == _NULL and type(None) in kinds:
            return None
        if kinds[0] is bool:
            return self._flag(at)
        if typing.get_origin(kinds[0]) is tuple:
            return tuple(self._text(item, empty=True) for item in self._items(at, "texts"))
        return self._text(at)

    def _dataset(self, at: _At, value: str) -> None:
        if value not in self._datasets:
            known = ", ".join(sorted(self._datasets)) or "none"
            self._problem(at, f"no contract has the dataset {value!r}: add its contract, or name one of: {known}")

    def _bucket(self, at: _At, value: str) -> None:
        if not _BUCKET.fullmatch(value):
            self._problem(at, f"{value!r} is no bucket name: write it without s3:// and without a path")

    def _part_of_key(self, at: _At, value: str) -> None:
        if len(value.encode()) > _MAX_KEY_BYTES:
            self._problem(at, f"is longer than a key may be, {_MAX_KEY_BYTES} bytes")
        if "*" in value:
            self._problem(at, f"{value!r} is taken as it is written: patterns go into glob")
        if value.startswith(("/", "s3://")):
            self._problem(at, f"{value!r}: keys begin without a slash and without the bucket: leave it out")

    def _parts(self, at: _At, dataset: str) -> None:
        if dataset in self._datasets - self._snapshots:
            self._problem(at, f"the contract of {dataset!r} has not FILE_POLICY_SNAPSHOT: leave parts out")

    def _glob(self, at: _At, value: str) -> None:
        if any(ANY_FOLDERS in piece and piece != ANY_FOLDERS for piece in value.split("/")):
            self._problem(at, f"{value!r}: ** stands for whole folders: put it between slashes, such as **/*.csv")
        if "{" in value or "}" in value:
            self._problem(at, f"{value!r}: there are no alternatives in braces: write a source for each")
        if value.startswith("/") or "//" in value:
            self._problem(at, f"{value!r}: has an empty segment, which only a key with // would fit: take a slash out")

    def _check_reached(self, at: _At, source: Source, known: list[tuple[_At, Source]]) -> None:
        for earlier, first in known:
            if covers(first, source):
                self._problem(
                    at, f"takes nothing, {earlier.path} takes it all before: put the narrower one first, or remove it"
                )
                return

    def _members(self, at: _At, allowed: tuple[str, ...]) -> Mapping[str, _At] | None:
        """The members of a mapping by name, as far as they are allowed; None where it is no mapping."""
        if not isinstance(at.node, yaml.MappingNode):
            self._problem(at, f"must be a mapping with {', '.join(allowed)}")
            return None
        members: dict[str, _At] = {}
        for key, value in at.node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            member = _At(node=value, path=f"{at.path}.{name}" if at.path else name)
            if name not in allowed:
                self._problem(_At(node=key, path=member.path), f"is not known: use {', '.join(allowed)}")
            elif name in members:
                self._problem(_At(node=key, path=member.path), "is given twice: remove one")
            else:
                members[name] = member
        return members

    def _items(self, at: _At, what: str) -> Iterator[_At]:
        if not isinstance(at.node, yaml.SequenceNode) or not at.node.value:
            self._problem(at, f"must be a list of {what}")
            return
        for number, node in enumerate(at.node.value):
            yield _At(node=node, path=f"{at.path}[{number}]")

    def _flag(self, at: _At) -> bool:
        if at.node.tag != _BOOL:
            self._problem(at, "must be true or false")
        return str(at.node.value).lower() in ("true", "yes", "on")

    def _text(self, at: _At, *, empty: bool = False) -> str:
        """The text of a scalar; a number or a bare `on` may be meant as text, but who knows."""
        if not isinstance(at.node, yaml.ScalarNode) or at.node.tag != _STRING:
            self._problem(at, "must be text: put it in quotes")
            return ""
        value = str(at.node.value)
        if (not value and not empty) or "\x00" in value:
            self._problem(at, "must not be empty, nor hold NUL: leave it out where there is nothing to say")
        return value

    def _problem(self, at: _At, what: str) -> None:
        line = at.node.start_mark.line + 1
        self.problems.append(f"{self._name}:{line}: {at.path or 'document'}: {what}")
