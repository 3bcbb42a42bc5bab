-- Amounts are whole hundredths, so that sums are exact. Times are ISO-8601 text in UTC, which sorts as time does.
CREATE TABLE windows (
  kind      TEXT NOT NULL CHECK (kind IN ('tumbling', 'sliding')),
  starts_at TEXT NOT NULL,
  ends_at   TEXT NOT NULL,
  orders    INTEGER NOT NULL,
  total     INTEGER NOT NULL,
  late      INTEGER NOT NULL, -- orders that came after it was closed, and are not in the total
  closed_at TEXT,
  PRIMARY KEY (kind, starts_at, ends_at)
) STRICT;

CREATE INDEX open_windows ON windows (ends_at) WHERE closed_at IS NULL;

-- How far the events of a partition have come, and when the last of them was seen.
CREATE TABLE progress (
  partition INTEGER PRIMARY KEY,
  event_at  TEXT NOT NULL,
  seen_at   TEXT NOT NULL
) STRICT;

-- One row: windows that end until then take no more, and when the timer has looked.
CREATE TABLE closing (
  until     TEXT NOT NULL,
  looked_at TEXT NOT NULL
) STRICT;
INSERT INTO closing VALUES ('1970-01-01T00:00:00.000Z', '1970-01-01T00:00:00.000Z');

-- The last amounts of each user.
CREATE TABLE amounts (
  id      INTEGER PRIMARY KEY,
  user_id TEXT NOT NULL,
  amount  INTEGER NOT NULL
) STRICT;
CREATE INDEX amounts_of_user ON amounts (user_id, id);

CREATE TABLE anomalies (
  order_id  INTEGER PRIMARY KEY,
  user_id   TEXT NOT NULL,
  amount    INTEGER NOT NULL,
  mean      INTEGER NOT NULL,
  deviation INTEGER NOT NULL,
  timestamp TEXT NOT NULL
) STRICT;
