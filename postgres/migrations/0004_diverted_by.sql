-- The trigger of what is diverted, by its failure, which begins {"trigger":"503",… or {"trigger":"timeout",… The server
-- computes it, so it is right whichever release wrote the row, where failed_by was what the writer remembered to say.
-- failed_by remains for the releases that write it.
--
-- A column rather than an index on the expression: PostgreSQL counts an expression by reading every row, and a column
-- in its index alone. For it the table is written anew, once, while nobody uses it.
DROP INDEX deliveries_failed_by;
ALTER TABLE deliveries ADD COLUMN diverted_by text GENERATED ALWAYS AS (
	CASE WHEN due IS NULL THEN coalesce(nullif(substr(failure, 13, 3), 'tim'), 'timeout') END
) STORED;
CREATE INDEX deliveries_diverted_by ON deliveries (webhook, diverted_by, event) WHERE due IS NULL;
