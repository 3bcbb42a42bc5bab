-- One row for each delivery that was kept. Nothing is unique here: a record applied twice must show.
CREATE TABLE seen (
  seq       INTEGER PRIMARY KEY,
  id        TEXT NOT NULL,
  topic     TEXT,
  partition INTEGER,
  "offset"  INTEGER,
  attempt   INTEGER NOT NULL,
  version   TEXT NOT NULL
) STRICT;

-- For INSERT OR ROLLBACK.
CREATE TABLE once (id TEXT PRIMARY KEY) STRICT;

-- For a foreign key that is checked only at the end of the transaction.
CREATE TABLE parent (id TEXT PRIMARY KEY) STRICT;
CREATE TABLE child (
  id     TEXT NOT NULL,
  parent TEXT NOT NULL REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED
) STRICT;

-- For a step that is taken only once.
CREATE TABLE orders (id TEXT PRIMARY KEY, status TEXT NOT NULL) STRICT;

-- For INSERT ... SELECT without end.
CREATE TABLE counted (n INTEGER NOT NULL) STRICT;

-- What a delivery drew from its clock and its randomness.
CREATE TABLE drawn (
  id         TEXT NOT NULL,
  attempt    INTEGER NOT NULL,
  now        INTEGER NOT NULL, -- the delivery's clock, milliseconds
  system_now INTEGER NOT NULL, -- WASI's clock, milliseconds
  monotonic  INTEGER NOT NULL, -- nanoseconds that WASI's monotonic clock moved during the delivery
  random     TEXT NOT NULL,    -- 16 bytes, in hexadecimal
  hash_seed  TEXT NOT NULL,    -- from std's RandomState, that is WASI's random numbers
  event_id   TEXT,             -- as the inbox knows the input
  next_id    TEXT NOT NULL,    -- for the next event
  sql_random TEXT,             -- SQL's random(), or the error
  sql_now    TEXT              -- SQL's datetime('now'), or the error
) STRICT;

-- For statements that fail half-way: what is not STRICT keeps the rows before.
CREATE TABLE loose (n, text);
