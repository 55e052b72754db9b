-- When a webhook last was delivered to, or failed: the last of its hours in which that happened, however many there are of
-- which it did not.
CREATE INDEX hours_last ON hours (webhook, what, hour);
