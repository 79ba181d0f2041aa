-- What one node is told and all obey: relays that are paused, and mails that are wanted back from
-- whichever node has them.

CREATE TABLE paused (
  relay text PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE wanted_back (
  mail uuid PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now()
);
