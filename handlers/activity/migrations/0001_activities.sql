-- Times are ISO-8601 text in UTC. A member does the same thing with the same target once.
CREATE TABLE activities (
  member_id   TEXT NOT NULL,
  type        TEXT NOT NULL,
  target_id   INTEGER NOT NULL,
  title       TEXT,
  occurred_at TEXT NOT NULL,
  PRIMARY KEY (member_id, type, target_id)
) STRICT;

CREATE INDEX activities_of_member ON activities (member_id, occurred_at);
