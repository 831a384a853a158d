"""The sample data: airports of the world (the airportsdata package, MIT) and a few invented shipments."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.errors import ConfigError

SHIPMENTS = 500
_FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
_CITIES = (("Reykjavik", "IS"), ("Oslo", "NO"), ("Lisboa", "PT"), ("Nairobi", "KE"), ("Osaka", "JP"))
_STATES = ("SHIPMENT_STATE_BOOKED", "SHIPMENT_STATE_IN_TRANSIT", "SHIPMENT_STATE_DELIVERED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A file for one dataset."""

    dataset: str
    file_name: str
    data: bytes


def samples() -> Sequence[Sample]:
    """All sample files."""
    return (airports(), shipments())


def airports() -> Sample:
    """28,000 airports as CSV."""
    spec = importlib.util.find_spec("airportsdata")
    if spec is None or spec.origin is None:
        raise ConfigError("the sample data is not installed: pip install 'penstock[local]'", reason="NO_SAMPLES")
    data = (Path(spec.origin).parent / "airports.csv").read_bytes()
    return Sample(dataset="airports", file_name="airports.csv", data=data)


def shipments(count: int = SHIPMENTS) -> Sample:
    """Shipments as NDJSON, in the form of ProtoJSON; the same ones every time."""
    lines = (json.dumps(row, separators=(",", ":")) for row in _shipments(count))
    return Sample(dataset="shipments", file_name="shipments.ndjson", data=("\n".join(lines) + "\n").encode())


def _shipments(count: int) -> Iterator[dict[str, object]]:
    for number in range(1, count + 1):
        booked = _FIRST_DAY + timedelta(hours=7 * number)
        yield {
            "carrier": f"carrier-{number % 7}",
            "number": str(number),
            "state": _STATES[number % len(_STATES)],
            "shipDate": {"year": booked.year, "month": booked.month, "day": booked.day},
            "updateTime": booked.isoformat().replace("+00:00", "Z"),
            "transitTime": f"{number % 72 * 3600}s",
            "express": number % 5 == 0,
            "sender": _address(number),
            "receiver": _address(number + 3),
            "parcels": [_parcel(number, part) for part in range(number % 3)],
            "tags": ["fragile", "cold"][: number % 3],
            "counters": {"scans": str(number % 11)},
            "pieces": number % 3,
            **({"insuredValue": 100.5 * number} if number % 4 == 0 else {}),
            **({"payerAccount": f"account-{number % 13}"} if number % 2 else {"payerNumber": str(10**12 + number)}),
        }


def _address(number: int) -> dict[str, object]:
    city, country = _CITIES[number % len(_CITIES)]
    return {"lines": [f"Harbour Street {number % 90 + 1}"], "city": city, "country": country}


def _parcel(number: int, part: int) -> dict[str, object]:
    return {"barcode": f"{number:06d}-{part}", "weightG": 250 * (part + 1), "labels": {"lane": str(number % 4)}}
