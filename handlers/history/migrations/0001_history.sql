-- The truth: every change of every order, in the order in which they became known. A stream is that of one order.
CREATE TABLE events (
  position     INTEGER PRIMARY KEY,
  order_id     TEXT NOT NULL,
  version      INTEGER NOT NULL CHECK (version > 0),
  event_type   TEXT NOT NULL,
  user_id      TEXT NOT NULL,
  total_amount TEXT NOT NULL, -- an exact decimal
  at           TEXT NOT NULL, -- ISO-8601, UTC
  UNIQUE (order_id, version)
) STRICT;

CREATE TRIGGER events_do_not_change BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are only appended'); END;
CREATE TRIGGER events_do_not_go BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are only appended'); END;

-- The read models: one serves, one may be under construction, those before are swept away.
CREATE TABLE models (
  generation INTEGER PRIMARY KEY,
  status     TEXT NOT NULL CHECK (status IN ('BUILDING', 'LIVE', 'OLD'))
) STRICT;

CREATE UNIQUE INDEX one_model ON models (status) WHERE status <> 'OLD';
INSERT INTO models (generation, status) VALUES (1, 'LIVE');

-- What follows from the events.
CREATE TABLE orders (
  generation   INTEGER NOT NULL REFERENCES models (generation),
  order_id     TEXT NOT NULL,
  user_id      TEXT NOT NULL,
  total_amount TEXT NOT NULL,
  status       TEXT NOT NULL,
  version      INTEGER NOT NULL, -- of the last event that it knows
  PRIMARY KEY (generation, order_id)
) STRICT, WITHOUT ROWID;
