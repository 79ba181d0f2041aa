-- How many deliveries it held when it was last seen.
ALTER TABLE sessions ADD COLUMN holds bigint NOT NULL DEFAULT 0;

-- Drafts are taken in the order of their names, which begin with the time. Where an application's
-- transaction has long been in the way, the index stays: it does no harm.
DO $$ BEGIN
  DROP INDEX outbox_at;
EXCEPTION WHEN lock_not_available THEN NULL;
END $$;

-- Enqueues a mail, given as POST /v1/mails takes it: it exists exactly if the caller's transaction
-- commits. All is named in full, so that the caller's search_path means nothing here and need not be set.
CREATE OR REPLACE FUNCTION enqueue(mail jsonb) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $enqueue$
DECLARE
  -- A UUID of version 7: the time, and chance.
  made pg_catalog.uuid := pg_catalog.encode(pg_catalog.set_bit(pg_catalog.set_bit(pg_catalog.overlay(
    pg_catalog.uuid_send(pg_catalog.gen_random_uuid()),
    pg_catalog.substring(pg_catalog.int8send(pg_catalog.int8(pg_catalog.floor(
      pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())
        OPERATOR(pg_catalog.*) 1000::pg_catalog.float8))), 3),
    1, 6), 52, 1), 53, 1), 'hex')::pg_catalog.uuid;
BEGIN
  IF mail IS NULL OR pg_catalog.jsonb_typeof(mail) OPERATOR(pg_catalog.<>) 'object' THEN
    RAISE EXCEPTION 'a mail is a JSON object, as POST /v1/mails takes it' USING ERRCODE = '22023';
  END IF;
  INSERT INTO {schema}.outbox (id, draft) VALUES (made, mail);
  RETURN made;
END $enqueue$;
