-- A page of the diverted events of a type, rare as it may be, and one by a time that leaves out many: what is left out
-- is not read but in an index. deliveries_diverted has the time now, and its name as before.
--
-- The strongest lock comes first: taken after a weaker one it would wait for a process that waits for that one.
DROP INDEX deliveries_diverted;
CREATE INDEX deliveries_diverted_type ON deliveries (webhook, type, event) WHERE due IS NULL;
CREATE INDEX deliveries_diverted ON deliveries (webhook, event, diverted_at) WHERE due IS NULL;
