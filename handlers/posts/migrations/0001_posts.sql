-- Times are ISO-8601 text in UTC.
CREATE TABLE posts (
  id         INTEGER PRIMARY KEY,
  member_id  TEXT NOT NULL,
  title      TEXT NOT NULL,
  content    TEXT NOT NULL,
  created_at TEXT NOT NULL
) STRICT;
