-- Whether the node waits until what others have committed is on disk before it acts upon it. While one
-- lives that does not, all nodes keep the row of all commits until their commit is on disk.
ALTER TABLE sessions ADD COLUMN flushes boolean NOT NULL DEFAULT false;
