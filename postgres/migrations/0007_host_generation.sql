-- A transaction of the host's that changes webhooks sets changed to -1, and its commit begins the generation. Until then
-- it does not lock the row of state, for which whoever accepts events or suspends webhooks would wait, in every process.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true); -- the function's, no table of the host's before it
CREATE OR REPLACE FUNCTION begin_generation() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
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
