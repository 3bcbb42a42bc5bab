CREATE TABLE notifications (
  id         INTEGER PRIMARY KEY,
  user_id    TEXT NOT NULL,
  type       TEXT NOT NULL CHECK (type IN ('ORDER_CREATED', 'ORDER_PAID', 'ORDER_CANCELLED')),
  message    TEXT NOT NULL,
  created_at TEXT NOT NULL -- ISO-8601, UTC
) STRICT;

CREATE INDEX notifications_of_user ON notifications (user_id, id);
