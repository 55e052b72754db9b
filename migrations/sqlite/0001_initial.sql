-- Identifiers are the 16 bytes of the UUID or ULID, times are UTC milliseconds since 1970.

CREATE TABLE diverted_webhooks (
	id           INTEGER PRIMARY KEY AUTOINCREMENT, -- never used again: rows of a deleted webhook are purged by it
	tenant       BLOB    NOT NULL CHECK (length(tenant) = 16),
	locator      BLOB    NOT NULL CHECK (length(locator) = 16),
	-- What EncodeWebhook returns. NULL: the store keeps diverted events of this webhook, but does not know it.
	record       TEXT,
	enabled      INTEGER NOT NULL,
	suspended_at INTEGER,
	-- Counts the unsuspends.
	epoch        INTEGER NOT NULL,
	version      INTEGER NOT NULL,
	-- 1: gone from every method, its rows are being purged.
	deleted      INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX diverted_webhooks_key ON diverted_webhooks (tenant, locator) WHERE deleted = 0;
CREATE INDEX diverted_webhooks_deleted ON diverted_webhooks (id) WHERE deleted = 1;

-- Deliveries that are pending or diverted. The body stands last, so that lists need not read it.
CREATE TABLE diverted_deliveries (
	id          INTEGER PRIMARY KEY, -- ascends in the order of acceptance
	webhook     INTEGER NOT NULL,
	event       BLOB    NOT NULL CHECK (length(event) = 16),
	request     BLOB    NOT NULL CHECK (length(request) = 16),
	type        TEXT    NOT NULL,
	accepted_at INTEGER NOT NULL,
	-- NULL: diverted. 0: due, in the order of acceptance. Else when it is due: the end of a wait, or, with a
	-- token, of a lease.
	due         INTEGER,
	token       INTEGER,
	attempts    INTEGER NOT NULL,
	losses      INTEGER NOT NULL,
	was_diverted INTEGER NOT NULL,
	released    INTEGER NOT NULL, -- 0: not; 1: was held, and has a fresh budget; 2: is held with its budget spent
	diverted_at INTEGER,
	failure     TEXT,
	body        BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX diverted_deliveries_key ON diverted_deliveries (webhook, event);
CREATE INDEX diverted_deliveries_due ON diverted_deliveries (webhook, due) WHERE due IS NOT NULL;
CREATE INDEX diverted_deliveries_diverted ON diverted_deliveries (webhook, event) WHERE due IS NULL;

-- Notices for alert endpoints: at most one row for each webhook.
CREATE TABLE diverted_notices (
	webhook INTEGER PRIMARY KEY,
	due     INTEGER NOT NULL, -- as of a delivery; the end of the window after a notice that was sent
	token   INTEGER,
	tries   INTEGER NOT NULL,
	window  INTEGER NOT NULL, -- milliseconds
	open    TEXT,             -- failures not told yet, JSON
	sending TEXT              -- the notice that is being sent, JSON
) STRICT;

-- One row: counts the changes of webhooks, so that a process knows when to read them again.
CREATE TABLE diverted_state (
	id         INTEGER PRIMARY KEY CHECK (id = 1),
	generation INTEGER NOT NULL
) STRICT;

INSERT INTO diverted_state (id, generation) VALUES (1, 1);
