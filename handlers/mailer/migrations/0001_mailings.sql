CREATE TABLE mailings (
  id      INTEGER PRIMARY KEY,
  owner   TEXT NOT NULL, -- who asked for it
  subject TEXT NOT NULL,
  text    TEXT NOT NULL,
  mails   INTEGER NOT NULL
) STRICT;

CREATE TABLE sent (
  id         INTEGER PRIMARY KEY, -- in the order of sending
  mailing_id INTEGER NOT NULL REFERENCES mailings (id),
  user_id    TEXT NOT NULL,
  UNIQUE (mailing_id, user_id)
) STRICT;
