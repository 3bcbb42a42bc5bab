-- Money is TEXT: exact decimals such as 50000.00, never a float. Times are ISO-8601 text in UTC.
CREATE TABLE orders (
  id           INTEGER PRIMARY KEY,
  user_id      TEXT NOT NULL,
  total_amount TEXT NOT NULL,
  status       TEXT NOT NULL CHECK (status IN ('PENDING', 'PAID', 'CANCELLED')),
  created_at   TEXT NOT NULL
) STRICT;

CREATE INDEX orders_of_user ON orders (user_id, id);

CREATE TABLE order_items (
  id         INTEGER PRIMARY KEY,
  order_id   INTEGER NOT NULL REFERENCES orders (id),
  product_id INTEGER NOT NULL,
  quantity   INTEGER NOT NULL CHECK (quantity > 0),
  price      TEXT NOT NULL
) STRICT;

CREATE INDEX items_of_order ON order_items (order_id);
