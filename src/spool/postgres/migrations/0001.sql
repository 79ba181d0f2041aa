-- Times are milliseconds since 1970, by the nodes' clocks; sessions are told by the server's clock.
-- In these steps {.} stands for the schema's name, quoted, with the word schema for the dot.

-- A node that is alive. Ids are never used again: they fence what a node holds.
CREATE TABLE sessions (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  node text NOT NULL,
  instance uuid NOT NULL,
  version text NOT NULL,
  lease_ms bigint NOT NULL,
  since timestamptz NOT NULL DEFAULT now(),
  seen timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20);

CREATE TABLE routes (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL UNIQUE
);

-- What was accepted. Only expires_at ever changes.
CREATE TABLE mails (
  id uuid PRIMARY KEY,
  accepted_at bigint NOT NULL,
  expires_at bigint NOT NULL,
  priority smallint NOT NULL,
  recipients text[] NOT NULL,
  manifest bytea NOT NULL,
  body bytea NOT NULL
);
DO $$ BEGIN
  ALTER TABLE mails ALTER COLUMN body SET COMPRESSION lz4;
EXCEPTION WHEN OTHERS THEN NULL; -- This server was built without it.
END $$;

-- What waits, or is in a node's hands: stage 0 is pending, 1 may have been sent (at most once).
CREATE TABLE ready (
  mail uuid NOT NULL,
  idx int NOT NULL,
  route int NOT NULL,
  priority smallint NOT NULL,
  due bigint NOT NULL,
  expires_at bigint NOT NULL,
  size bigint NOT NULL,
  owner int NOT NULL DEFAULT 0,
  token bigint NOT NULL DEFAULT 0,
  stage smallint NOT NULL DEFAULT 0,
  tries int NOT NULL DEFAULT 0,
  counted int NOT NULL DEFAULT 0,
  crashes int NOT NULL DEFAULT 0,
  takeovers int NOT NULL DEFAULT 0,
  data bytea NOT NULL,
  PRIMARY KEY (mail, idx)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 2000000000);
-- The owner is in no index, so that a claim can be a heap-only update.
CREATE INDEX ready_claim ON ready (route, priority, due, mail, idx);
CREATE INDEX ready_expiry ON ready (expires_at);

-- What has ended: stage 2 is delivered, 3 dead, 4 cancelled.
CREATE TABLE ended (
  mail uuid NOT NULL,
  idx int NOT NULL,
  route int NOT NULL,
  priority smallint NOT NULL,
  at bigint NOT NULL,
  stage smallint NOT NULL,
  reason smallint NOT NULL,
  token bigint NOT NULL,
  tries int NOT NULL,
  counted int NOT NULL,
  crashes int NOT NULL,
  data bytea NOT NULL,
  PRIMARY KEY (mail, idx)
);
CREATE INDEX ended_at ON ended (at);
CREATE INDEX ended_dead ON ended (mail) WHERE stage = 3;
CREATE INDEX ended_cancelled ON ended (mail) WHERE stage = 4;

CREATE TABLE keys (
  key bytea PRIMARY KEY,
  mail uuid NOT NULL,
  fingerprint uuid NOT NULL,
  forget_at bigint NOT NULL
);
CREATE INDEX keys_forget ON keys (forget_at);

-- One row that every commit changes last: the numbers of the journal grow in the order of commits,
-- and the totals are those of the commit. totals: pending, delivered, dead, cancelled, each by priority.
CREATE TABLE head (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  journal_id int NOT NULL,
  commits bigint NOT NULL DEFAULT 0,
  next bigint NOT NULL DEFAULT 1,
  written bigint NOT NULL DEFAULT 0,
  totals bigint[] NOT NULL DEFAULT ARRAY[0,0,0,0,0,0,0,0,0,0,0,0]::bigint[]
) WITH (fillfactor = 10);
INSERT INTO head (journal_id) VALUES ((random() * 2147483647)::int);

CREATE FUNCTION bump(events bigint, bytes bigint, d bigint[], after bigint,
  OUT first bigint, OUT before bigint, OUT commits bigint, OUT pending bigint)
LANGUAGE sql VOLATILE AS $$
  UPDATE head h SET commits = h.commits + 1, next = h.next + events, written = h.written + bytes,
    totals = ARRAY[h.totals[1]+d[1], h.totals[2]+d[2], h.totals[3]+d[3], h.totals[4]+d[4],
      h.totals[5]+d[5], h.totals[6]+d[6], h.totals[7]+d[7], h.totals[8]+d[8], h.totals[9]+d[9],
      h.totals[10]+d[10], h.totals[11]+d[11], h.totals[12]+d[12]]
  RETURNING h.next - events, h.written - bytes, h.commits, h.totals[1] + h.totals[2] + h.totals[3]
$$;

-- What happened: the events of a commit, or of a part of it. before: the bytes of all earlier rows.
CREATE TABLE journal (
  first bigint PRIMARY KEY,
  events int NOT NULL,
  at bigint NOT NULL,
  before bigint NOT NULL,
  acts boolean NOT NULL,
  entries bytea NOT NULL
);
CREATE INDEX journal_at ON journal (at);
CREATE INDEX journal_acts ON journal (first) WHERE acts;

CREATE TABLE readers (
  name text PRIMARY KEY,
  at bigint NOT NULL,
  missed bigint NOT NULL DEFAULT 0
);
CREATE TABLE kept (
  reader text NOT NULL,
  key bytea NOT NULL,
  value bytea NOT NULL,
  PRIMARY KEY (reader, key)
);
