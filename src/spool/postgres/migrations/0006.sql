-- Which session reads for a named reader of the journal; 0 or one that is gone: nobody.
ALTER TABLE readers ADD COLUMN owner int NOT NULL DEFAULT 0;
