-- The indexes of what is diverted, by the names that earlier releases ask for, have all that a look at them needs.
-- due is part of it: it is NULL in every entry, but every query names it, and without it SQLite turns to the row.
DROP INDEX diverted_deliveries_diverted;
DROP INDEX diverted_deliveries_by;
DROP INDEX diverted_deliveries_at;
CREATE INDEX diverted_deliveries_diverted ON diverted_deliveries (webhook, event, diverted_at, due) WHERE due IS NULL;
CREATE INDEX diverted_deliveries_by ON diverted_deliveries (webhook, substr(failure, 13, 3), type, event, diverted_at, due) WHERE due IS NULL;
CREATE INDEX diverted_deliveries_at ON diverted_deliveries (webhook, diverted_at, event, due) WHERE due IS NULL;
