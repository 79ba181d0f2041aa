-- Where the row is gone or damaged that every commit changes, nothing is committed that nobody counts.
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
  IF bump.pending IS NULL THEN
    RAISE EXCEPTION 'the row of the table head is gone or damaged';
  END IF;
END $$;
