-- How many deliveries each token and user has pending, and how many of it were accepted on the last
-- day; named by a number that is made of its name.
CREATE TABLE accounts (
  name bigint PRIMARY KEY,
  pending bigint NOT NULL DEFAULT 0,
  day bigint NOT NULL DEFAULT 0,
  accepted bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 20);
ALTER TABLE ready ADD COLUMN account bigint NOT NULL DEFAULT 0;

-- Changes accounts, and tells how they are then. after: what must be done before, so that they are
-- changed in the order of commits.
CREATE FUNCTION count_accounts(after bigint, names bigint[], pendings bigint[], days bigint[], accepteds bigint[])
RETURNS SETOF text
LANGUAGE sql VOLATILE AS $$
  INSERT INTO accounts AS a (name, pending, day, accepted)
  SELECT u.name, u.pending, u.day, u.accepted
  FROM unnest(names, pendings, days, accepteds) AS u(name, pending, day, accepted) WHERE after IS NOT NULL
  ON CONFLICT (name) DO UPDATE SET pending = a.pending + EXCLUDED.pending,
    day = greatest(a.day, EXCLUDED.day),
    accepted = CASE WHEN EXCLUDED.day > a.day THEN EXCLUDED.accepted WHEN EXCLUDED.day = a.day
      THEN a.accepted + EXCLUDED.accepted ELSE a.accepted END
  RETURNING concat_ws(' ', a.name, a.pending, a.day, a.accepted)
$$;

-- Whether it is still to be looked at if the message of its mail may go.
ALTER TABLE ended ADD COLUMN body_due boolean NOT NULL DEFAULT true;
CREATE INDEX ended_bodies ON ended (at) WHERE stage = 2 AND body_due;

-- Who is not to get mail, the address in lower case; of which list, or of none.
CREATE TABLE suppressions (
  address text COLLATE "C" NOT NULL,
  list text COLLATE "C" NOT NULL DEFAULT '',
  reason smallint NOT NULL,
  since bigint NOT NULL,
  until bigint,
  note text,
  PRIMARY KEY (address, list, reason)
);
