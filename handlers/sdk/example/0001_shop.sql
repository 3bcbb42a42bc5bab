CREATE TABLE orders (
    id      INTEGER PRIMARY KEY,
    user_id TEXT NOT NULL,
    total   TEXT NOT NULL,
    status  TEXT NOT NULL DEFAULT 'CREATED'
) STRICT;

CREATE TABLE payments (
    id       TEXT PRIMARY KEY,
    order_id INTEGER NOT NULL REFERENCES orders (id),
    amount   TEXT NOT NULL,
    paid_at  TEXT NOT NULL
) STRICT;

CREATE TABLE unsent (
    id     TEXT PRIMARY KEY,
    reason TEXT NOT NULL
) STRICT;
