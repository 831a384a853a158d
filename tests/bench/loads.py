"""The figures of the ingest service that are times of a load: first, repeated, nearly unchanged, and small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.bench import files
from tests.bench.files import CLASSES, RowsFile
from tests.bench.lab import Lab
from tests.bench.psql import TABLE
from tests.bench.table import Figure, Target, seconds, time_ratio
from tests.bench.timing import REPEATS, alternate, timed

SMALL_REPEATS = 11
SMALL_BYTES = 10_000


def first_load(lab: Lab) -> Figure:
    """A CSV into the table that has never held a row."""
    return _first_load(lab, lab.base, "first load of a CSV, rows in no order")


def first_load_in_order(lab: Lab) -> Figure:
    """The same, where the file is sorted by key already."""
    ordered = files.write_csv(lab.directory / "ordered.csv", range(lab.rows))
    figure = _first_load(lab, ordered, "first load of a CSV, rows in key order")
    ordered.path.unlink()
    return figure


def same_content(lab: Lab) -> Figure:
    """The same content under other keys: every row is compared, none changes."""
    lab.need_orders()
    uris = iter([lab.upload(f"again-{repeat}.csv", lab.base.path) for repeat in range(REPEATS)])

    def ours() -> float:
        uri = next(uris)
        lab.settle()
        return _load(lab, uri, unchanged=lab.rows)

    times = [ours() for _ in range(REPEATS)]
    return _against_upsert(lab, "same content under another key", times, Target(at_most=0.35, aim="0.15"))


def one_per_cent(lab: Lab) -> Figure:
    """A full dump of which 1 % differs from what the table holds."""
    lab.need_orders()
    lab.loaded = False
    times = []
    for classes in range(1, REPEATS + 1):
        dump = files.write_csv(lab.directory / "dump.csv", files.shuffled(lab.rows), classes)
        uri = lab.upload(f"dump-{classes}.csv", dump.path)
        dump.path.unlink()
        changed = len(range(classes - 1, lab.rows, CLASSES))
        lab.settle("data.orders")
        times.append(_load(lab, uri, updated=changed, unchanged=lab.rows - changed))
    return _against_upsert(lab, "1 % of rows changed", times, Target(at_most=0.4))


def small_file(lab: Lab) -> Figure:
    """A small file, half of it new rows, into the big table and into an empty one."""
    lab.need_orders()
    lab.loaded = False
    bodies = _small_bodies(lab.rows)

    def into(dataset: str) -> float:
        body = next(bodies[dataset])
        uri = lab.upload(f"small-{dataset}.csv", body)
        if dataset != "orders":
            lab.forget(dataset)
        return timed(lambda: lab.expect(lab.populate(uri, dataset).rows_unchanged, 0, "unchanged rows of a small file"))

    into("orders"), into("spare_orders")
    ours, theirs = alternate(lambda: into("orders"), lambda: into("spare_orders"), repeats=SMALL_REPEATS)
    return Figure(
        name=f"{SMALL_BYTES // 1000} KB file into the table of {lab.rows:,} rows : into an empty table",
        ours=seconds(ours),
        baseline=seconds(theirs),
        value=time_ratio(ours, theirs),
        target=Target(at_most=2),
    )


def _first_load(lab: Lab, source: RowsFile, name: str) -> Figure:
    uri = lab.upload(source.path.name, source.path)

    def ours() -> float:
        lab.forget()
        lab.settle()
        return _load(lab, uri, inserted=lab.rows)

    def theirs() -> float:
        lab.psql.run(f"TRUNCATE {TABLE};")
        lab.settle()
        return timed(lambda: lab.psql.copy_in(source.path))

    times, baseline = alternate(ours, theirs)
    lab.loaded = lab.baseline_loaded = True
    lab.expect(_count(lab, "data.orders"), lab.rows, "rows of data.orders")
    lab.expect(_count(lab, TABLE), lab.rows, f"rows of {TABLE}")
    return Figure(
        name=rf"{name}, every row validated, 2 secondary indexes : psql \copy",
        ours=seconds(times),
        baseline=seconds(baseline),
        value=time_ratio(times, baseline),
        target=Target(at_most=0.7, aim="0.4"),
    )


def _against_upsert(lab: Lab, name: str, times: Sequence[float], target: Target) -> Figure:
    baseline = upsert_times(lab)
    return Figure(
        name=f"{name} : psql staging + INSERT ON CONFLICT DO UPDATE",
        ours=seconds(times),
        baseline=seconds(baseline),
        value=time_ratio(times, baseline),
        target=target,
    )


def upsert_times(lab: Lab) -> Sequence[float]:
    """The naive upsert of all rows; measured once a run, because it costs the same whatever has changed."""
    if not lab.upsert_s:
        lab.need_baseline()
        for _ in range(REPEATS):
            lab.settle(TABLE)
            lab.upsert_s.append(timed(lambda: lab.psql.upsert(lab.base.path)))
        lab.expect(_count(lab, TABLE), lab.rows, f"rows of {TABLE}")
    return lab.upsert_s


def _load(lab: Lab, uri: str, *, inserted: int = 0, updated: int = 0, unchanged: int = 0) -> float:
    """Seconds from the Populate call to its answer; the load must have done just this."""
    loads = []
    elapsed_s = timed(lambda: loads.append(lab.populate(uri)))
    load = loads[0]
    counts = (load.rows_inserted, load.rows_updated, load.rows_unchanged, load.rows_rejected)
    lab.expect(counts, (inserted, updated, unchanged, 0), "rows inserted, updated, unchanged, rejected")
    return elapsed_s


def _small_bodies(rows: int) -> dict[str, Iterator[bytes]]:
    """Files of SMALL_BYTES for each table, each with rows that no other one holds."""
    count = SMALL_BYTES // len(",".join(files.values(rows, 2)))

    def bodies() -> Iterator[bytes]:
        for number in range(SMALL_REPEATS + 1):
            old = range(number * count // 2 % rows, rows)[: count // 2]
            new = range(rows + number * count, rows + (number + 1) * count)[: count - len(old)]
            yield files.csv_bytes([*old, *new], revision=2)

    return {"orders": bodies(), "spare_orders": bodies()}


def _count(lab: Lab, table: str) -> int:
    row = lab.database.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])
