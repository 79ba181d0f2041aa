"""A mail in the application's own transaction: it is sent exactly if the order is committed.

With psycopg 3, and with Django. The owner of the spool's schema has to permit the application's role
to do this, once: `SELECT postrider.admit('shop')`.
"""

import json


def order_with_psycopg(url):
    import psycopg

    mail = {
        "from": "Shop <shop@example.com>",
        "to": "ada@example.org",
        "subject": "Your order 42",
        "text": "Thank you.",
        "idempotency_key": "order-42",
    }
    with psycopg.connect(url) as connection, connection.transaction():
        connection.execute("INSERT INTO orders (id, customer) VALUES (%s, %s)", (42, "ada@example.org"))
        row = connection.execute("SELECT postrider.enqueue(%s::jsonb)", (json.dumps(mail),)).fetchone()
        return row[0]


def order_with_django(order):
    from django.db import connection, transaction

    mail = {
        "from": "Shop <shop@example.com>",
        "to": order.customer,
        "subject": f"Your order {order.id}",
        "text": "Thank you.",
        "idempotency_key": f"order-{order.id}",
    }
    with transaction.atomic():
        order.save()
        with connection.cursor() as cursor:
            cursor.execute("SELECT postrider.enqueue(%s::jsonb)", [json.dumps(mail)])
            return cursor.fetchone()[0]
