CREATE TABLE addresses (
  user_id TEXT PRIMARY KEY,
  address TEXT NOT NULL
) STRICT;

CREATE TABLE deliveries (
  order_id TEXT PRIMARY KEY,
  user_id  TEXT NOT NULL,
  address  TEXT, -- as it was when the delivery started
  status   TEXT NOT NULL CHECK (status IN ('STARTED', 'FAILED', 'CALLED_OFF'))
) STRICT;

CREATE INDEX deliveries_of_user ON deliveries (user_id);
