-- Money is in won, which has no smaller unit.
CREATE TABLE purchases (
  id        INTEGER PRIMARY KEY,
  user_id   TEXT NOT NULL,
  coupon_id INTEGER,
  total     INTEGER NOT NULL CHECK (total >= 0),
  status    TEXT NOT NULL CHECK (status IN ('CREATED', 'COMPLETED', 'COMPLETE_FAILED', 'PAYMENT_FAILED', 'CANCELED')),
  reason    TEXT
) STRICT;
