-- Takes back: airports: create.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

DELETE FROM penstock.datasets WHERE name = 'airports';
DROP TABLE "data"."airports__deleted";
DROP TABLE "data"."airports";
