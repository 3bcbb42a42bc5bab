CREATE TABLE stock (
  product_id INTEGER PRIMARY KEY,
  available  INTEGER NOT NULL CHECK (available >= 0)
) STRICT;

CREATE TABLE reservations (
  order_id TEXT PRIMARY KEY,
  status   TEXT NOT NULL CHECK (status IN ('RESERVED', 'REFUSED', 'RELEASED'))
) STRICT;

-- What orders ask for.
CREATE TABLE pieces (
  order_id   TEXT NOT NULL REFERENCES reservations (order_id),
  product_id INTEGER NOT NULL,
  quantity   INTEGER NOT NULL CHECK (quantity > 0),
  PRIMARY KEY (order_id, product_id)
) STRICT, WITHOUT ROWID;
