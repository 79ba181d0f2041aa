-- A mail in the application's own transaction: it is sent exactly if the order is committed.
-- Once, as the role that owns the spool's schema: SELECT postrider.admit('shop');

BEGIN;
INSERT INTO orders (id, customer) VALUES (42, 'ada@example.org');
SELECT postrider.enqueue(jsonb_build_object(
  'from', 'Shop <shop@example.com>',
  'to', 'ada@example.org',
  'subject', 'Your order 42',
  'text', 'Thank you.',
  'idempotency_key', 'order-42')) AS mail;
COMMIT;

-- The mail's record.
SELECT postrider.status('0199c0de-0000-7000-8000-000000000000');
