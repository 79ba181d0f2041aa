"""Sends one mail over STARTTLS, one over implicit TLS, and one that needs SMTPUTF8, each with a login."""

import smtplib
import ssl
import sys
from email.message import EmailMessage

port, tls_port, ca, user, password = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
context = ssl.create_default_context(cafile=ca)


def message(subject, to="ada@example.org"):
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Shop <shop@example.com>", to, subject
    mail.set_content("Grüße\n.a line with a dot\n")
    return mail


with smtplib.SMTP("127.0.0.1", port, timeout=20) as smtp:
    smtp.starttls(context=context)
    smtp.login(user, password)
    smtp.send_message(message("smtplib over starttls"))
    smtp.send_message(message("smtplib with smtputf8", "zoë@example.org"))

with smtplib.SMTP_SSL("127.0.0.1", tls_port, context=context, timeout=20) as smtp:
    smtp.login(user, password)
    smtp.send_message(message("smtplib over tls"))
    try:
        smtp.sendmail("shop@example.com", ["nobody"], "Subject: x\n\n")
        sys.exit("a recipient without a domain was taken")
    except smtplib.SMTPRecipientsRefused:
        pass
