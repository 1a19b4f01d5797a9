-- A message on its way to one receiver. Made before it is first sent, so that it is the same message however often it is sent.
CREATE TABLE delivery (
    delivery_key   INTEGER PRIMARY KEY AUTOINCREMENT,
    -- What the receiver knows it by.
    delivery_id    TEXT NOT NULL UNIQUE,
    receiver       TEXT NOT NULL CHECK (receiver IN ('webhook', 'email')),
    attempts       INTEGER NOT NULL DEFAULT 0,
    first_tried_at REAL,
    due_at         REAL NOT NULL,
    last_error     TEXT,
    given_up_at    REAL
) STRICT;
CREATE UNIQUE INDEX delivery_open ON delivery (receiver) WHERE given_up_at IS NULL;

-- An event to be told to one receiver, written with the change that it tells of. Deleted when it is delivered or given up.
CREATE TABLE notice (
    notice_key   INTEGER PRIMARY KEY AUTOINCREMENT,
    receiver     TEXT NOT NULL CHECK (receiver IN ('webhook', 'email')),
    -- The same for the same event, so that it is never there twice.
    event_key    TEXT NOT NULL,
    event        TEXT NOT NULL,
    facts        TEXT NOT NULL,
    -- The message that it goes out in; null before there is one.
    delivery_key INTEGER REFERENCES delivery (delivery_key) ON DELETE CASCADE,
    UNIQUE (receiver, event_key)
) STRICT;
CREATE INDEX notice_to_pack ON notice (receiver, notice_key) WHERE delivery_key IS NULL;
CREATE INDEX notice_of_delivery ON notice (delivery_key) WHERE delivery_key IS NOT NULL;

-- The wait that somebody has been told of: its `waiting_since`.
ALTER TABLE job ADD COLUMN wait_told REAL;

-- Tells the messages of this queue from those of all others.
INSERT INTO kv (key, value) VALUES ('outbox', lower(hex(randomblob(16))));
