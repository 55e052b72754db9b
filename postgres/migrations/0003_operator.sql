-- What an operator needs: filters, the failures of all attempts, numbers, an end to what is kept.

ALTER TABLE deliveries
	ADD COLUMN trace     text,   -- the traceparent of whoever sent it
	ADD COLUMN earlier   text[], -- the failures before the last one, oldest first, JSON
	ADD COLUMN failed_by text;   -- the trigger of failure, once it is diverted

UPDATE deliveries SET failed_by = coalesce(failure::json ->> 'trigger', 'timeout') WHERE due IS NULL;

-- To count and to list what is diverted by trigger, and to purge the oldest first. The body of an event that was expunged is
-- empty.
CREATE INDEX deliveries_failed_by ON deliveries (webhook, failed_by, event) WHERE due IS NULL;
CREATE INDEX deliveries_diverted_at ON deliveries (webhook, diverted_at, id) WHERE due IS NULL;

-- What happened at a webhook within an hour: 'delivered', 'failed', or the trigger by which something was
-- diverted. Processes add to it every second or two.
CREATE TABLE hours (
	webhook bigint      NOT NULL,
	hour    timestamptz NOT NULL,
	what    text        NOT NULL,
	n       bigint      NOT NULL,
	last    timestamptz NOT NULL, -- time that it happened
	PRIMARY KEY (webhook, hour, what)
) WITH (fillfactor = 50);
CREATE INDEX hours_hour ON hours (hour);
