-- Takes back: airports: contract.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

INSERT INTO penstock.datasets (name, fingerprint, contract)
VALUES ('airports', 'ef29149a703d664abb00c29c70f65a97f97b3900e0f67e1bc07b399ca92030be', '{
  "format": 1,
  "message": "aviation.v1.Airport",
  "key": ["icao"],
  "file_policy": "MERGE",
  "max_reject_percent": 1.0,
  "max_row_bytes": 1048576,
  "columns": [
    {"name": "icao", "number": 1, "kind": "string"},
    {"name": "iata", "number": 2, "kind": "string", "filterable": true},
    {"name": "name", "number": 3, "kind": "string", "searchable": true},
    {"name": "city", "number": 4, "kind": "string"},
    {"name": "subdivision", "number": 5, "kind": "string"},
    {"name": "country", "number": 6, "kind": "string", "filterable": true},
    {"name": "elevation_ft", "number": 7, "kind": "double", "filterable": true, "sortable": true},
    {"name": "latitude", "number": 8, "kind": "double"},
    {"name": "longitude", "number": 9, "kind": "double"},
    {"name": "time_zone", "number": 10, "kind": "string"},
    {"name": "faa_lid", "number": 11, "kind": "string"}
  ],
  "indexes": [["country", "elevation_ft desc"]],
  "wire": {
    "1": {"type": "string", "label": "implicit"},
    "2": {"type": "string", "label": "implicit"},
    "3": {"type": "string", "label": "implicit"},
    "4": {"type": "string", "label": "implicit"},
    "5": {"type": "string", "label": "implicit"},
    "6": {"type": "string", "label": "implicit"},
    "7": {"type": "double", "label": "implicit"},
    "8": {"type": "double", "label": "implicit"},
    "9": {"type": "double", "label": "implicit"},
    "10": {"type": "string", "label": "implicit"},
    "11": {"type": "string", "label": "implicit"}
  },
  "names": {"1": "icao", "2": "iata", "3": "name", "4": "city", "5": "subdivision", "6": "country", "7": "elevation_ft", "8": "latitude", "9": "longitude", "10": "time_zone", "11": "faa_lid"}
}')
ON CONFLICT (name) DO UPDATE
SET fingerprint = excluded.fingerprint, contract = excluded.contract, updated_at = now();
