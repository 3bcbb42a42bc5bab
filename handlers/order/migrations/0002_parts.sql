-- What is there of an order that is not paid yet: it is PAID once it has both.
CREATE TABLE parts (
  order_id INTEGER NOT NULL REFERENCES orders (id),
  part     TEXT NOT NULL CHECK (part IN ('STOCK', 'PAYMENT')),
  PRIMARY KEY (order_id, part)
) STRICT, WITHOUT ROWID;
