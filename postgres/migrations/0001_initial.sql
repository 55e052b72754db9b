-- Applied with the store's schema as the search_path. Identifiers are the 16 bytes of a UUID or ULID as
-- uuid, which sort alike; times are kept to the millisecond.

CREATE TABLE webhooks (
	id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	tenant       uuid        NOT NULL,
	locator      uuid        NOT NULL,
	-- What diverted.EncodeWebhook returns. NULL: the store keeps diverted events of this webhook, but does
	-- not know it.
	record       text,
	enabled      boolean     NOT NULL,
	suspended_at timestamptz,
	epoch        bigint      NOT NULL, -- counts the unsuspends
	version      bigint      NOT NULL,
	changed      bigint      NOT NULL, -- state.generation of the last change
	deleted      boolean     NOT NULL DEFAULT false -- gone from every method, its rows are being purged
);
CREATE UNIQUE INDEX webhooks_key ON webhooks (tenant, locator) WHERE NOT deleted;
CREATE INDEX webhooks_changed ON webhooks (changed);
CREATE INDEX webhooks_deleted ON webhooks (id) WHERE deleted;

-- One row. generation counts the changes of webhooks, so that a process knows which to read again; floor is
-- the greatest changed of a row that is gone, so that one that knows less reads all again.
CREATE TABLE state (
	one        boolean PRIMARY KEY DEFAULT true CHECK (one),
	generation bigint  NOT NULL,
	floor      bigint  NOT NULL
);
INSERT INTO state (generation, floor) VALUES (1, 0);

-- Deliveries that are pending or diverted. What a claim changes of one that was never attempted (lease, token,
-- counters) is in no index, so that it is a heap-only update.
CREATE TABLE deliveries (
	webhook      bigint      NOT NULL,
	event        uuid        NOT NULL,
	id           bigint      GENERATED ALWAYS AS IDENTITY, -- ascends in the order of acceptance
	request      uuid        NOT NULL,
	accepted_at  timestamptz NOT NULL,
	-- NULL: diverted. -infinity: due, in the order of acceptance, or claimed. Else the end of a wait.
	due          timestamptz,
	-- Until when it is somebody's, who shows the token. NULL: nobody's.
	lease        timestamptz,
	token        bigint,
	diverted_at  timestamptz,
	attempts     integer     NOT NULL DEFAULT 0,
	losses       integer     NOT NULL DEFAULT 0,
	released     smallint    NOT NULL DEFAULT 0, -- 0: not; 1: was held, and has a fresh budget; 2: is held with its budget spent
	was_diverted boolean     NOT NULL DEFAULT false,
	type         text        NOT NULL,
	failure      text,
	body         bytea       NOT NULL,
	PRIMARY KEY (webhook, event)
);
CREATE INDEX deliveries_due ON deliveries (webhook, due, id) WHERE due IS NOT NULL;
CREATE INDEX deliveries_diverted ON deliveries (webhook, event) WHERE due IS NULL;

-- lz4 costs a tenth of the default compression. PostgreSQL 13, and a server built without it, keep bodies
-- as they are.
DO $$
BEGIN
	EXECUTE 'ALTER TABLE deliveries ALTER body SET COMPRESSION lz4';
EXCEPTION WHEN syntax_error OR feature_not_supported THEN
	ALTER TABLE deliveries ALTER body SET STORAGE EXTERNAL;
END $$;

-- Notices for alert endpoints: at most one row for each webhook.
CREATE TABLE notices (
	webhook bigint      PRIMARY KEY,
	-- -infinity: at once. Else the end of a wait, of a lease, or of the window after a notice that was sent.
	due     timestamptz NOT NULL,
	token   bigint,
	tries   integer     NOT NULL,
	window_ms bigint NOT NULL,
	open    text,                 -- failures not told yet, JSON
	sending text                  -- the notice that is being sent, JSON
);
CREATE INDEX notices_due ON notices (due);
