-- Takes back: shipments: create.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

DELETE FROM penstock.datasets WHERE name = 'shipments';
DROP TABLE "data"."shipments__deleted";
DROP TABLE "data"."shipments";
