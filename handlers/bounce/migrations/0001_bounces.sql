CREATE TABLE bounces (
  mailing_id INTEGER NOT NULL,
  user_id    TEXT NOT NULL,
  reason     TEXT NOT NULL,
  source     TEXT NOT NULL, -- topic/partition@offset of the record that was given up on
  at         TEXT NOT NULL, -- ISO-8601, UTC
  PRIMARY KEY (mailing_id, user_id)
) STRICT;
