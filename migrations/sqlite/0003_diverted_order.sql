-- A page of diverted events, by time or not, reads this index alone: by its name as before, for the releases
-- that ask for it.
DROP INDEX diverted_deliveries_diverted;
CREATE INDEX diverted_deliveries_diverted ON diverted_deliveries (webhook, event, diverted_at) WHERE due IS NULL;
