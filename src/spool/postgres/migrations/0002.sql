-- Mail that applications enqueue in transactions of their own. A node moves it to the queue.

CREATE TABLE outbox (
  id uuid PRIMARY KEY,
  draft jsonb NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  owner int NOT NULL DEFAULT 0
);
CREATE INDEX outbox_at ON outbox (at);

-- Which mail one became that was another's already, by its idempotency key.
CREATE TABLE aliases (
  id uuid PRIMARY KEY,
  mail uuid NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
);

-- Enqueues a mail, given as POST /v1/mails takes it: it exists exactly if the caller's transaction commits.
CREATE FUNCTION enqueue(mail jsonb) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
  -- A UUID of version 7: the time, and chance.
  made uuid := encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
    PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
    52, 1), 53, 1), 'hex')::uuid;
BEGIN
  IF mail IS NULL OR jsonb_typeof(mail) <> 'object' THEN
    RAISE EXCEPTION 'a mail is a JSON object, as POST /v1/mails takes it' USING ERRCODE = '22023';
  END IF;
  INSERT INTO outbox (id, draft) VALUES (made, mail);
  RETURN made;
END $$;
REVOKE ALL ON FUNCTION enqueue(jsonb) FROM PUBLIC;

-- What is known of a mail; NULL where there is none.
CREATE FUNCTION status(mail uuid) RETURNS jsonb
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
        CASE WHEN e.stage = 3 THEN (ARRAY['rejected','exhausted','expired','in_doubt','poisoned','quarantined'])[e.reason + 1] END
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
REVOKE ALL ON FUNCTION status(uuid) FROM PUBLIC;

-- What applications may do, and nothing else: GRANT of these two, and of the schema, to their roles.
CREATE FUNCTION admit(role text) RETURNS void
LANGUAGE plpgsql SET search_path = {schema}, pg_temp AS $$
BEGIN
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
  EXECUTE format('GRANT EXECUTE ON FUNCTION enqueue(jsonb), status(uuid) TO %I', role);
END $$;
REVOKE ALL ON FUNCTION admit(text) FROM PUBLIC;
