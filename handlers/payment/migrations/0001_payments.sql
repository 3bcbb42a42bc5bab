-- Money is TEXT: exact decimals such as 50000.00, never a float.
CREATE TABLE accounts (
  user_id TEXT PRIMARY KEY,
  balance TEXT NOT NULL
) STRICT;

CREATE TABLE payments (
  order_id TEXT PRIMARY KEY,
  user_id  TEXT NOT NULL,
  amount   TEXT NOT NULL,
  status   TEXT NOT NULL CHECK (status IN ('PAID', 'FAILED', 'REFUNDED'))
) STRICT;
