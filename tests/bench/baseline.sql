-- What one would write by hand: the file's columns, a primary key, and the two indexes that the contract asks for.
CREATE SCHEMA bench;
CREATE TABLE bench.orders (
    id text COLLATE "C" PRIMARY KEY,
    customer text COLLATE "C" NOT NULL,
    product text COLLATE "C" NOT NULL,
    quantity integer NOT NULL,
    price double precision NOT NULL,
    currency text COLLATE "C" NOT NULL,
    country text COLLATE "C" NOT NULL,
    express boolean NOT NULL,
    update_time timestamptz,
    note text COLLATE "C" NOT NULL
);
CREATE INDEX orders_customer ON bench.orders (customer, id);
CREATE INDEX orders_update_time ON bench.orders (update_time, id);
-- The same for the loader of small files.
CREATE TABLE bench.few (LIKE bench.orders INCLUDING ALL);
