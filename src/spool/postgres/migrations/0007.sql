-- What came back for mail that was sent; id names it, so that what comes twice is one.
CREATE TABLE feedback (
  mail uuid NOT NULL,
  idx int NOT NULL,
  id uuid NOT NULL,
  at bigint NOT NULL,
  data bytea NOT NULL,
  PRIMARY KEY (mail, idx, id)
);
