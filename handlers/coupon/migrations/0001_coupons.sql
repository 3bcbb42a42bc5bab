-- Money is in won, which has no smaller unit.
CREATE TABLE coupons (
  id       INTEGER PRIMARY KEY,
  user_id  TEXT NOT NULL,
  discount INTEGER NOT NULL CHECK (discount > 0),
  status   TEXT NOT NULL CHECK (status IN ('PUBLISHED', 'USED'))
) STRICT;

CREATE INDEX coupons_of_user ON coupons (user_id, id);
