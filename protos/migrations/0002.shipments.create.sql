-- shipments: create.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE TABLE "data"."shipments" (
    "carrier" text COLLATE "C" NOT NULL,
    "number" numeric(20) NOT NULL,
    "state" integer NOT NULL DEFAULT 0,
    "ship_date" date,
    "update_time" timestamptz,
    "transit_time" interval,
    "insured_value" double precision,
    "note" text COLLATE "C",
    "customs_id" bigint,
    "express" boolean NOT NULL DEFAULT false,
    "tags" text[] COLLATE "C" NOT NULL DEFAULT '{}',
    "readings_celsius" double precision[] NOT NULL DEFAULT '{}',
    "payer_account" text COLLATE "C",
    "payer_number" numeric(20),
    "signature" bytea NOT NULL DEFAULT '',
    "zone" integer NOT NULL DEFAULT 0,
    "ledger_offset" bigint NOT NULL DEFAULT 0,
    "temperature_celsius" real NOT NULL DEFAULT 0,
    "checksum" bigint NOT NULL DEFAULT 0,
    "delta" bigint NOT NULL DEFAULT 0,
    "pieces" integer NOT NULL DEFAULT 0,
    "pallets" bigint NOT NULL DEFAULT 0,
    "dock" integer NOT NULL DEFAULT 0,
    "sequence" bigint NOT NULL DEFAULT 0,
    "_wire" bytea NOT NULL,
    "_object" bigint NOT NULL,
    "_version" bigint NOT NULL,
    CONSTRAINT "shipments_pkey" PRIMARY KEY ("carrier", "number")
);
ALTER TABLE "data"."shipments" ALTER COLUMN "_wire" SET STORAGE EXTERNAL;
CREATE TABLE "data"."shipments__deleted" (
    "carrier" text COLLATE "C" NOT NULL,
    "number" numeric(20) NOT NULL,
    "_version" bigint NOT NULL,
    CONSTRAINT "shipments__deleted_pkey" PRIMARY KEY ("_version", "carrier", "number")
);
ALTER TABLE "data"."shipments" OWNER TO penstock_ingest;
GRANT SELECT ON "data"."shipments" TO penstock_query;
ALTER TABLE "data"."shipments__deleted" OWNER TO penstock_ingest;
GRANT SELECT ON "data"."shipments__deleted" TO penstock_query;
CREATE INDEX "shipments__state_0dbbc386" ON "data"."shipments" USING btree ("state", "carrier", "number");
CREATE INDEX "shipments__ship_date_59cfa7f3" ON "data"."shipments" USING btree ("ship_date", "carrier", "number");
CREATE INDEX "shipments__update_time_33ba1977" ON "data"."shipments" USING btree ("update_time", "carrier", "number");
CREATE INDEX "shipments__express_c64d9d4c" ON "data"."shipments" USING btree ("express", "carrier", "number");
CREATE INDEX "shipments__state_8a4ee8e8" ON "data"."shipments" USING btree ("state", "ship_date" DESC, "carrier", "number");
CREATE INDEX "shipments__version_e44ff70a" ON "data"."shipments" USING btree ("_version");
CREATE INDEX "shipments__object_e3f152c5" ON "data"."shipments" USING btree ("_object");
INSERT INTO penstock.datasets (name, fingerprint, contract)
VALUES ('shipments', '9485b73ebed4893cc2ab65c15cb3f6fe8fc76ca6dff69d8ee0cc754f4920fd1a', '{
  "format": 1,
  "message": "samples.v1.Shipment",
  "key": ["carrier", "number"],
  "file_policy": "MERGE",
  "max_reject_percent": 50.0,
  "max_row_bytes": 1048576,
  "columns": [
    {"name": "carrier", "number": 1, "kind": "string"},
    {"name": "number", "number": 2, "kind": "uint64"},
    {"name": "state", "number": 3, "kind": "enum", "filterable": true},
    {"name": "ship_date", "number": 4, "kind": "date", "nullable": true, "filterable": true, "sortable": true},
    {"name": "update_time", "number": 5, "kind": "timestamp", "nullable": true, "sortable": true},
    {"name": "transit_time", "number": 6, "kind": "duration", "nullable": true},
    {"name": "insured_value", "number": 7, "kind": "double", "nullable": true},
    {"name": "note", "number": 8, "kind": "string", "nullable": true, "wrapper": true},
    {"name": "customs_id", "number": 9, "kind": "int64", "nullable": true, "wrapper": true},
    {"name": "express", "number": 10, "kind": "bool", "filterable": true},
    {"name": "tags", "number": 14, "kind": "string", "repeated": true},
    {"name": "readings_celsius", "number": 15, "kind": "double", "repeated": true},
    {"name": "payer_account", "number": 18, "kind": "string", "nullable": true},
    {"name": "payer_number", "number": 19, "kind": "uint64", "nullable": true},
    {"name": "signature", "number": 20, "kind": "bytes"},
    {"name": "zone", "number": 21, "kind": "int32"},
    {"name": "ledger_offset", "number": 22, "kind": "int64"},
    {"name": "temperature_celsius", "number": 23, "kind": "float"},
    {"name": "checksum", "number": 24, "kind": "uint32"},
    {"name": "delta", "number": 25, "kind": "int64"},
    {"name": "pieces", "number": 26, "kind": "int32"},
    {"name": "pallets", "number": 27, "kind": "uint32"},
    {"name": "dock", "number": 28, "kind": "int32"},
    {"name": "sequence", "number": 29, "kind": "int64"}
  ],
  "indexes": [["state", "ship_date desc"]],
  "wire": {
    "1": {"type": "string", "label": "implicit"},
    "2": {"type": "uint64", "label": "implicit"},
    "3": {"type": "enum", "label": "implicit"},
    "4": {"type": "message", "label": "optional", "fields": {"1": {"type": "int32", "label": "implicit"}, "2": {"type": "int32", "label": "implicit"}, "3": {"type": "int32", "label": "implicit"}}},
    "5": {"type": "message", "label": "optional", "fields": {"1": {"type": "int64", "label": "implicit"}, "2": {"type": "int32", "label": "implicit"}}},
    "6": {"type": "message", "label": "optional", "fields": {"1": {"type": "int64", "label": "implicit"}, "2": {"type": "int32", "label": "implicit"}}},
    "7": {"type": "double", "label": "optional"},
    "8": {"type": "message", "label": "optional", "fields": {"1": {"type": "string", "label": "implicit"}}},
    "9": {"type": "message", "label": "optional", "fields": {"1": {"type": "int64", "label": "implicit"}}},
    "10": {"type": "bool", "label": "implicit"},
    "11": {"type": "message", "label": "optional", "fields": {"1": {"type": "string", "label": "repeated"}, "2": {"type": "string", "label": "implicit"}, "3": {"type": "string", "label": "implicit"}}},
    "12": {"type": "message", "label": "optional", "fields": {"1": {"type": "string", "label": "repeated"}, "2": {"type": "string", "label": "implicit"}, "3": {"type": "string", "label": "implicit"}}},
    "13": {"type": "message", "label": "repeated", "fields": {"1": {"type": "string", "label": "implicit"}, "2": {"type": "uint32", "label": "implicit"}, "3": {"type": "int64", "label": "repeated", "packed": true}, "4": {"type": "message", "label": "map", "fields": {"1": {"type": "string", "label": "implicit"}, "2": {"type": "string", "label": "implicit"}}}}},
    "14": {"type": "string", "label": "repeated"},
    "15": {"type": "double", "label": "repeated", "packed": true},
    "16": {"type": "message", "label": "map", "fields": {"1": {"type": "string", "label": "implicit"}, "2": {"type": "int64", "label": "implicit"}}},
    "17": {"type": "message", "label": "map", "fields": {"1": {"type": "int32", "label": "implicit"}, "2": {"type": "message", "label": "optional", "fields": {"1": {"type": "string", "label": "repeated"}, "2": {"type": "string", "label": "implicit"}, "3": {"type": "string", "label": "implicit"}}}}},
    "18": {"type": "string", "label": "optional"},
    "19": {"type": "fixed64", "label": "optional"},
    "20": {"type": "bytes", "label": "implicit"},
    "21": {"type": "sint32", "label": "implicit"},
    "22": {"type": "sfixed64", "label": "implicit"},
    "23": {"type": "float", "label": "implicit"},
    "24": {"type": "fixed32", "label": "implicit"},
    "25": {"type": "sint64", "label": "implicit"},
    "26": {"type": "int32", "label": "implicit"},
    "27": {"type": "uint32", "label": "implicit"},
    "28": {"type": "sfixed32", "label": "implicit"},
    "29": {"type": "int64", "label": "implicit"}
  },
  "names": {"1": "carrier", "2": "number", "3": "state", "4": "ship_date", "4.1": "year", "4.2": "month", "4.3": "day", "5": "update_time", "5.1": "seconds", "5.2": "nanos", "6": "transit_time", "6.1": "seconds", "6.2": "nanos", "7": "insured_value", "8": "note", "8.1": "value", "9": "customs_id", "9.1": "value", "10": "express", "11": "sender", "11.1": "lines", "11.2": "city", "11.3": "country", "12": "receiver", "12.1": "lines", "12.2": "city", "12.3": "country", "13": "parcels", "13.1": "barcode", "13.2": "weight_g", "13.3": "route", "13.4": "labels", "13.4.1": "key", "13.4.2": "value", "14": "tags", "15": "readings_celsius", "16": "counters", "16.1": "key", "16.2": "value", "17": "stops", "17.1": "key", "17.2": "value", "17.2.1": "lines", "17.2.2": "city", "17.2.3": "country", "18": "payer_account", "19": "payer_number", "20": "signature", "21": "zone", "22": "ledger_offset", "23": "temperature_celsius", "24": "checksum", "25": "delta", "26": "pieces", "27": "pallets", "28": "dock", "29": "sequence"},
  "oneofs": {"18": "payer", "19": "payer"}
}')
ON CONFLICT (name) DO UPDATE
SET fingerprint = excluded.fingerprint, contract = excluded.contract, updated_at = now();
