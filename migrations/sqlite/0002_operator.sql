-- What an operator looks at. A release that knows schema 1 alone works on: it leaves the new columns as they
-- are, and SQLite keeps the indexes.

-- The failures before the last, which is in failure: JSON, one a line, oldest first.
ALTER TABLE diverted_deliveries ADD COLUMN failures TEXT;
-- The header traceparent of whoever sent the event.
ALTER TABLE diverted_deliveries ADD COLUMN trace TEXT;

-- substr(failure, 13, 3) is the trigger: a failure is {"trigger":"503",… or {"trigger":"timeout",… An index on
-- it is right whoever wrote the row, costs no parsing, and never fails.
CREATE INDEX diverted_deliveries_by ON diverted_deliveries (webhook, substr(failure, 13, 3), type, event, diverted_at) WHERE due IS NULL;
CREATE INDEX diverted_deliveries_at ON diverted_deliveries (webhook, diverted_at, event) WHERE due IS NULL;

-- What happened at a webhook, by hours since 1970: how often it was delivered, failed, or diverted, which has
-- the trigger as in the index. Of hour 0, n is when it last was delivered or failed.
CREATE TABLE diverted_activity (
	webhook INTEGER NOT NULL,
	hour    INTEGER NOT NULL,
	what    TEXT    NOT NULL,
	n       INTEGER NOT NULL,
	PRIMARY KEY (webhook, hour, what)
) STRICT, WITHOUT ROWID;
