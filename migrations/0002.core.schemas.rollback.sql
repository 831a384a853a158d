SET LOCAL lock_timeout = '5s';

DROP SCHEMA data;
DROP SCHEMA penstock;
