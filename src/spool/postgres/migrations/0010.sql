-- The text of a draft, or NULL where that is longer than `largest` bytes. Some are far longer than
-- what is stored: a number of ten bytes may have 131,000 digits.
CREATE FUNCTION draft_text(draft jsonb, largest bigint) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
  digits bigint := 0;
  number jsonb;
  whole text;
BEGIN
  -- Of what is stored a fourth may be structure that the text does not have.
  IF pg_column_size(draft || '{}') / 4 > largest THEN
    RETURN NULL;
  END IF;
  FOR number IN SELECT jsonb_path_query(draft, 'strict $.** ? (@.type() == "number")') LOOP
    digits := digits + octet_length(number #>> '{}');
    IF digits > largest THEN
      RETURN NULL;
    END IF;
  END LOOP;
  whole := draft::text;
  RETURN CASE WHEN octet_length(whole) <= largest THEN whole END;
EXCEPTION WHEN program_limit_exceeded OR out_of_memory OR internal_error THEN
  RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION draft_text(jsonb, bigint) FROM PUBLIC;
