-- What could not be read of a delivery when it ended, as it stood there: counted, never deleted.
CREATE TABLE set_aside (
  mail uuid NOT NULL,
  idx int NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  data bytea NOT NULL
);

-- What was enqueued and could not be composed. Such a mail has no message.
ALTER TABLE mails ADD COLUMN draft jsonb;
-- Whether the message is not kept any more; body is empty then.
ALTER TABLE mails ADD COLUMN forgotten boolean NOT NULL DEFAULT false;

-- What is known of a mail; NULL where there is none.
CREATE OR REPLACE FUNCTION status(mail uuid) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
  WITH w AS (SELECT coalesce((SELECT a.mail FROM aliases a WHERE a.id = $1), $1) AS id,
      floor(extract(epoch FROM now()) * 1000)::bigint AS ms),
  d AS (SELECT r.idx, CASE WHEN r.owner <> 0 OR r.stage = 1 THEN 'sending' WHEN r.due <= w.ms THEN 'queued'
          WHEN r.tries = 0 THEN 'scheduled' ELSE 'deferred' END AS state,
        r.tries, to_timestamp(r.due / 1000.0) AS next_attempt_at, NULL::timestamptz AS finished_at, NULL::text AS reason
      FROM ready r, w WHERE r.mail = w.id
    UNION ALL
    SELECT e.idx, CASE e.stage WHEN 2 THEN 'delivered' WHEN 3 THEN 'dead' ELSE 'cancelled' END,
        e.tries, NULL, to_timestamp(e.at / 1000.0),
        CASE WHEN e.stage = 3 THEN (ARRAY['rejected','exhausted','expired','in_doubt','poisoned','quarantined',
          'suppressed'])[e.reason + 1] END
      FROM ended e, w WHERE e.mail = w.id)
  SELECT coalesce(
    (SELECT jsonb_build_object('id', m.id,
        'state', CASE WHEN bool_or(d.state = 'sending') THEN 'sending' WHEN bool_or(d.state = 'queued') THEN 'queued'
          WHEN bool_or(d.state = 'deferred') THEN 'deferred' WHEN bool_or(d.state = 'scheduled') THEN 'scheduled'
          WHEN count(DISTINCT d.state) = 1 THEN min(d.state) ELSE 'partial' END,
        'created_at', to_timestamp(m.accepted_at / 1000.0),
        'finished_at', CASE WHEN bool_and(d.finished_at IS NOT NULL) THEN max(d.finished_at) END,
        'deliveries', jsonb_agg(jsonb_strip_nulls(jsonb_build_object('recipient', m.recipients[d.idx + 1],
          'state', d.state, 'tries', d.tries, 'next_attempt_at', d.next_attempt_at,
          'finished_at', d.finished_at, 'reason', d.reason)) ORDER BY d.idx))
      FROM w JOIN mails m ON m.id = w.id JOIN d ON true GROUP BY m.id, m.accepted_at),
    (SELECT jsonb_build_object('id', o.id, 'state', 'queued', 'created_at', o.at, 'deliveries', '[]'::jsonb)
      FROM outbox o WHERE o.id = $1))
$$;
