-- Money is in won, which has no smaller unit.
CREATE TABLE wallets (
  user_id TEXT PRIMARY KEY,
  balance INTEGER NOT NULL CHECK (balance >= 0)
) STRICT;

CREATE TABLE payments (
  order_id INTEGER PRIMARY KEY,
  user_id  TEXT NOT NULL,
  amount   INTEGER NOT NULL,
  status   TEXT NOT NULL CHECK (status IN ('PAID', 'FAILED', 'CANCELED'))
) STRICT;
