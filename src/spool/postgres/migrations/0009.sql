-- A row that every commit changes leaves a dead one behind each time, which stays as long as any
-- transaction does that could see it: the newest is found at the end of an index instead of by
-- walking over all of them.
ALTER TABLE head DROP CONSTRAINT head_pkey;
CREATE UNIQUE INDEX head_newest ON head (commits);
ALTER TABLE accounts ADD COLUMN version bigint NOT NULL DEFAULT 0, DROP CONSTRAINT accounts_pkey;
CREATE UNIQUE INDEX accounts_newest ON accounts (name, version);

-- These are called by every commit: in plpgsql a session plans what they do once.
CREATE OR REPLACE FUNCTION bump(events bigint, bytes bigint, d bigint[], after bigint,
  OUT first bigint, OUT before bigint, OUT commits bigint, OUT pending bigint)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
  UPDATE head h SET commits = h.commits + 1, next = h.next + bump.events, written = h.written + bump.bytes,
    totals = ARRAY[h.totals[1]+d[1], h.totals[2]+d[2], h.totals[3]+d[3], h.totals[4]+d[4],
      h.totals[5]+d[5], h.totals[6]+d[6], h.totals[7]+d[7], h.totals[8]+d[8], h.totals[9]+d[9],
      h.totals[10]+d[10], h.totals[11]+d[11], h.totals[12]+d[12]]
  WHERE h.commits >= (SELECT max(n.commits) FROM head n)
  RETURNING h.next - bump.events, h.written - bump.bytes, h.commits, h.totals[1] + h.totals[2] + h.totals[3]
  INTO bump.first, bump.before, bump.commits, bump.pending;
END $$;

CREATE OR REPLACE FUNCTION count_accounts(after bigint, names bigint[], pendings bigint[], days bigint[], accepteds bigint[])
RETURNS SETOF text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  told text;
BEGIN
  -- Whoever comes here holds the row that every commit changes last: nobody else does this meanwhile.
  FOR i IN 1 .. CASE WHEN after IS NULL THEN 0 ELSE coalesce(cardinality(names), 0) END LOOP
    UPDATE accounts a SET version = a.version + 1, pending = a.pending + pendings[i],
      day = greatest(a.day, days[i]),
      accepted = CASE WHEN days[i] > a.day THEN accepteds[i] WHEN days[i] = a.day THEN a.accepted + accepteds[i]
        ELSE a.accepted END
    WHERE a.name = names[i] AND a.version >= (SELECT max(n.version) FROM accounts n WHERE n.name = names[i])
    RETURNING concat_ws(' ', a.name, a.pending, a.day, a.accepted) INTO told;
    IF NOT FOUND THEN
      INSERT INTO accounts AS a (name, pending, day, accepted) VALUES (names[i], pendings[i], days[i], accepteds[i])
      RETURNING concat_ws(' ', a.name, a.pending, a.day, a.accepted) INTO told;
    END IF;
    RETURN NEXT told;
  END LOOP;
END $$;
