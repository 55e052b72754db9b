-- To find the notices that are due, and the windows that passed in silence, however many others there are.
CREATE INDEX diverted_notices_due ON diverted_notices (due);
CREATE INDEX diverted_notices_silent ON diverted_notices (due) WHERE open IS NULL AND sending IS NULL;
