"""Sends one mail with Django's EmailBackend, and several over one connection of it."""

import sys

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection, send_mail

port, user, password = int(sys.argv[1]), *sys.argv[2:]
settings.configure(
    EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend",
    EMAIL_HOST="127.0.0.1",
    EMAIL_PORT=port,
    EMAIL_HOST_USER=user,
    EMAIL_HOST_PASSWORD=password,
    EMAIL_USE_TLS=True,
    EMAIL_TIMEOUT=20,
    DEFAULT_CHARSET="utf-8",
)
assert send_mail("django sends one", "Your code is 123456.", "shop@example.com", ["ada@example.org"]) == 1

mails = []
for n in range(3):
    mail = EmailMultiAlternatives(f"django sends {n}", "Grüße", "shop@example.com", ["ada@example.org"], bcc=["b@example.org"])
    mail.attach_alternative("<p>Grüße</p>", "text/html")
    mail.attach("note.txt", "a note", "text/plain")
    mails.append(mail)
assert get_connection().send_messages(mails) == 3
