-- One row for each record. Nothing but the row's own number is unique: a record applied twice must show.
CREATE TABLE entries (
  id       INTEGER PRIMARY KEY,
  order_id INTEGER NOT NULL,
  user_id  TEXT NOT NULL,
  amount   TEXT NOT NULL
) STRICT;
