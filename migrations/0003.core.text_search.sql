-- Trigram indexes serve searchable fields. Trusted extension: the owner of the database may create it.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = '60s';

CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public;
