-- What an order waits for: it is PAID once both are there.
ALTER TABLE orders ADD COLUMN reserved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE orders ADD COLUMN paid INTEGER NOT NULL DEFAULT 0;
