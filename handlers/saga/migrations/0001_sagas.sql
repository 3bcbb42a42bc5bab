CREATE TABLE sagas (
  id           INTEGER PRIMARY KEY,
  user_id      TEXT NOT NULL,
  total_amount TEXT NOT NULL, -- an exact decimal
  items        TEXT NOT NULL, -- [{"productId":1,"quantity":2}]
  status       TEXT NOT NULL CHECK (status IN (
    'NEW', 'RESERVING', 'PAYING', 'SHIPPING', 'COMPLETED', -- forward
    'CALLING_OFF', 'REFUNDING', 'RELEASING', 'CANCELLED' -- and back
  ))
) STRICT;
