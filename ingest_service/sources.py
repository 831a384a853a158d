"""Which objects are whose: the sources of the datasets. Pure; `sources_file.py` reads them from a YAML file.

One object may be the source of several datasets; within a dataset the first source that takes it decides.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ingest_service.decode import Dialect
from ingest_service.routing import (
    MARKER_NAME,
    ObjectUri,
    Role,
    dataset_of,
    folder_of_marker,
    is_folder_marker,
    is_hidden,
)
from shared.errors import FieldViolation, InvalidRequest, PermissionDenied

ANY_FOLDERS = "**"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The objects of one bucket that go to one dataset: those that fit every part that is set.

    `glob` is matched against the key after `prefix`, see `glob_matches`. `parts`: the objects in a folder and below are
    one snapshot, complete when the folder has its marker; the markers are then taken too, whatever their suffix, in
    every folder that the glob leads to. `dialect`: how they are written.
    """

    dataset: str
    bucket: str
    prefix: str = ""
    suffix: str = ""
    glob: str = ""
    parts: bool = False
    dialect: Dialect = Dialect()  # noqa: RUF009 - frozen

    def __str__(self) -> str:
        """s3://bucket/prefix -> dataset, and what narrows it."""
        narrowed = [f"{name} {value}" for name, value in (("glob", self.glob), ("suffix", self.suffix)) if value]
        way = "in parts ->" if self.parts else "->"
        return " ".join([f"s3://{self.bucket}/{self.prefix}", *narrowed, way, self.dataset])

    def takes(self, uri: ObjectUri) -> bool:
        """Whether the object is one of these."""
        if uri.bucket != self.bucket or not uri.key.startswith(self.prefix):
            return False
        path = uri.key.removeprefix(self.prefix)
        if self.parts and (folder := folder_of_marker(path)) is not None:
            return not self.glob or glob_leads_to(self.glob, folder)
        return uri.key.endswith(self.suffix) and (not self.glob or glob_matches(self.glob, path))

    def role_of(self, uri: ObjectUri) -> Role:
        """What the object, one of these, is."""
        if self.parts:
            folder = folder_of_marker(uri.key)
            if folder is not None and not is_hidden(folder, under=self.prefix):
                return Role.MARKER
        if is_hidden(uri.key, under=self.prefix):
            return Role.HIDDEN
        return Role.PART if self.parts and not is_folder_marker(uri.key) else Role.DATA


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """All sources in their order. `more_buckets` may be read by Populate and feed nothing by themselves.

    `by_name`: they were not configured; objects under `<dataset>/` go to that dataset.
    """

    sources: tuple[Source, ...]
    more_buckets: frozenset[str] = frozenset()
    by_name: bool = False

    @property
    def buckets(self) -> frozenset[str]:
        """The buckets that may be read."""
        return self.more_buckets | {source.bucket for source in self.sources}

    def of(self, uri: ObjectUri) -> tuple[Source, ...]:
        """For each dataset that the object feeds the first source that takes it, in the order of the sources."""
        first: dict[str, Source] = {}
        for source in self.sources:
            if source.dataset not in first and source.takes(uri):
                first[source.dataset] = source
        return tuple(first.values())

    def of_dataset(self, uri: ObjectUri, dataset: str) -> Source | None:
        """The source that feeds the object to that dataset."""
        return next((source for source in self.sources if source.dataset == dataset and source.takes(uri)), None)

    def around(self, prefix: ObjectUri) -> frozenset[str]:
        """The datasets with a source that `prefix` lies in, so that an object under it may be theirs."""
        return frozenset(
            source.dataset
            for source in self.sources
            if source.bucket == prefix.bucket and prefix.key.startswith(source.prefix)
        )

    def require_readable(self, bucket: str) -> None:
        """Raises PermissionDenied, saying what is allowed, unless the bucket is a configured source."""
        if bucket not in self.buckets:
            raise PermissionDenied(
                f"bucket {bucket!r} is not a configured source; readable buckets: "
                f"{', '.join(sorted(self.buckets)) or 'none'} (settings PENSTOCK_BUCKET and PENSTOCK_SOURCES)",
                reason="BUCKET_NOT_CONFIGURED",
                metadata={"bucket": bucket},
            )

    def choose_dataset(
        self, uri: ObjectUri, *, requested: str, known: Collection[str], is_prefix: bool = False, field: str = "dataset"
    ) -> str:
        """The dataset to load an object, or what is under a prefix, into: the requested one, else the only one that it
        feeds. Raises InvalidRequest naming `field` where there is no such dataset, or more than one."""
        offer = f"known datasets: {', '.join(sorted(known)) or 'none'}"
        if requested:
            if requested in known:
                return requested
            raise _invalid(field, f"there is no dataset {requested!r}; {offer}")
        fed = sorted(self.around(uri) if is_prefix else {source.dataset for source in self.of(uri)})
        if len(fed) > 1:
            raise _invalid(field, f"{uri} feeds {', '.join(fed)}, so the dataset must be given")
        if fed and fed[0] in known:
            return fed[0]
        rule = f"does not begin with {uri.bucket}/<dataset>/" if self.by_name else "is in none of the sources"
        raise _invalid(field, f"{uri} {rule}, so the dataset must be given; {offer}")


def sources_by_name(datasets: Iterable[str], buckets: Iterable[str]) -> Sources:
    """What holds without a sources file: in each bucket the objects under `<dataset>/` go to that dataset."""
    names, places = sorted(datasets), tuple(buckets)
    sources = tuple(Source(dataset=name, bucket=bucket, prefix=f"{name}/") for bucket in places for name in names)
    return Sources(sources=sources, more_buckets=frozenset(places), by_name=True)


def unknown_dataset(sources: Sources, uri: ObjectUri) -> str | None:
    """The dataset that an object of no source would feed if this process knew it: only its name can tell."""
    return dataset_of(uri.key) if sources.by_name and uri.bucket in sources.buckets else None


def glob_matches(glob: str, path: str) -> bool:
    """Whether the whole path fits. `*`, `?` and `[abc]` stay within a path segment; `**` is a segment of its own and
    stands for any number of folders, also none, and at the end for everything below. Case counts.

    Segment by segment, so that no pattern can take exponential time.
    """
    parts = path.split("/")
    ends = {0}  # how many parts the pieces so far may have used up
    pieces = glob.split("/")
    for number, piece in enumerate(pieces, 1):
        if piece == ANY_FOLDERS:
            ends = set(range(min(ends) + (number == len(pieces)), len(parts) + 1))
        else:
            ends = {end + 1 for end in ends if end < len(parts) and fnmatchcase(parts[end], piece)}
        if not ends:
            return False
    return len(parts) in ends


def glob_leads_to(glob: str, folder: str) -> bool:
    """Whether objects below the folder, "" or ending in a slash, may fit."""
    pieces = glob.split("/")
    leading = pieces if pieces[-1] == ANY_FOLDERS else pieces[:-1]
    path = folder.removesuffix("/")
    return not path or any(glob_matches("/".join(leading[: n + 1]), path) for n in range(len(leading)))


def literal_prefix(source: Source) -> str:
    """What the key of every object begins with whose events the source needs: of parts only the markers'."""
    return source.prefix if source.parts else source.prefix + _literal(source.glob)


def literal_suffix(source: Source) -> str:
    """What the key of every object ends with whose events the source needs."""
    if source.parts:
        return MARKER_NAME
    tail = _literal(source.glob[::-1])[::-1] if source.glob else ""
    return max(source.suffix, tail.rpartition("/")[2], key=len)


def _literal(glob: str) -> str:
    """The glob up to its first wildcard."""
    return re.split(r"[*?\[\]]", glob, maxsplit=1)[0]


def covers(first: Source, later: Source) -> bool:
    """Whether `first` surely takes everything that `later` does: then `later` is never asked. Globs are compared as
    they are written: one that is merely wider than the other is not seen."""
    return (
        (first.dataset, first.bucket) == (later.dataset, later.bucket)
        and later.prefix.startswith(first.prefix)
        and later.suffix.endswith(first.suffix)
        and (not first.glob or (first.prefix, first.glob) == (later.prefix, later.glob))
        and (first.parts or not later.parts or not (first.suffix or first.glob))
    )


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=problem)], reason="INVALID_URI")
