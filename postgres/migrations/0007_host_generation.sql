-- A transaction of the host's that changes webhooks sets changed to -1, and its commit begins the generation. Until then
-- it does not lock the row of state, for which whoever accepts events or suspends webhooks would wait, in every process.
CREATE OR REPLACE FUNCTION begin_generation() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	-- The function's, to its end: no table of the host's before it, and the schema by the name that it has by now.
	PERFORM set_config('search_path', quote_ident(TG_TABLE_SCHEMA) || ', pg_temp', true);
	-- One generation for all that the transaction has changed, with the first of them.
	IF EXISTS (SELECT FROM webhooks WHERE id = NEW.id AND changed < 0) THEN
		LOCK TABLE state IN EXCLUSIVE MODE; -- as the store's own changes do: see lockState
		WITH next AS (UPDATE state SET generation = generation + 1 RETURNING generation)
		UPDATE webhooks SET changed = next.generation FROM next WHERE changed < 0;
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER webhooks_generation AFTER UPDATE OF changed ON webhooks
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.changed < 0) EXECUTE FUNCTION begin_generation();
