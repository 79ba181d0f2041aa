"""Sends mail through django-anymail to providers that all are at one address.

anymail_client.py ADDRESS: prints a JSON list with an object for each message and provider, in the
order in which they were sent: `provider`, `name`, `from`, `recipients`, and `message`, which is the
same message as Django hands it to SMTP, in base64. `refused` says why anymail did not send it.
"""
import base64
import email.utils
import json
import sys

import django
from django.conf import settings

ADDRESS = sys.argv[1]

settings.configure(
    USE_TZ=True,
    ANYMAIL={
        "BREVO_API_KEY": "s3cret",
        "BREVO_API_URL": f"{ADDRESS}/v3/",
        "SENDGRID_API_KEY": "s3cret",
        "SENDGRID_API_URL": f"{ADDRESS}/v3/",
        "SENDGRID_GENERATE_MESSAGE_ID": False,
        "POSTMARK_SERVER_TOKEN": "s3cret",
        "POSTMARK_API_URL": f"{ADDRESS}/",
        "RESEND_API_KEY": "s3cret",
        "RESEND_API_URL": f"{ADDRESS}/",
        "MAILGUN_API_KEY": "s3cret",
        "MAILGUN_API_URL": f"{ADDRESS}/v3",
        "MAILGUN_SENDER_DOMAIN": "mg.example.com",
        "AMAZON_SES_CLIENT_PARAMS": {
            "endpoint_url": ADDRESS,
            "region_name": "eu-west-1",
            "aws_access_key_id": "AKIDEXAMPLE",
            "aws_secret_access_key": "key",
        },
    },
)
django.setup()

from anymail.exceptions import AnymailUnsupportedFeature  # noqa: E402
from anymail.message import attach_inline_image  # noqa: E402
from django.core.mail import EmailMultiAlternatives, get_connection  # noqa: E402

PROVIDERS = ["brevo", "sendgrid", "postmark", "resend", "mailgun", "amazon_ses"]
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


def letter(**more):
    fields = {
        "subject": "An order",
        "body": "The text.\n\n.A dot, and the end.",
        "from_email": "Shop <shop@example.com>",
        "to": ["Ada <ada@example.org>"],
    }
    return EmailMultiAlternatives(**{**fields, **more})


def with_html(message):
    message.attach_alternative("<p>The <b>HTML</b>, größer.</p>", "text/html")
    return message


def with_files(message):
    message.attach("report.pdf", b"%PDF-1.4\x00\xff\r\n\n", "application/pdf")
    message.attach("Rechnung für Ada.txt", "Grüße\nund Ende\n", "text/plain")
    message.attach("data.bin", bytes(range(256)) * 20, None)
    return message


def with_image(message):
    image = attach_inline_image(message, PIXEL, "pixel.png")
    message.attach_alternative(f'<img src="cid:{image}">', "text/html")
    return message


def messages():
    yield "plain", letter()
    yield "both", with_html(letter())
    yield "html alone", letter(body="<p>Only this.</p>")
    yield "languages", with_html(
        letter(subject="Grüße 日本語 😀 " + "ü" * 80, body="Zażółć\n日本語 😀\n")
    )
    yield "people", letter(
        from_email='"Shop, Inc. \\"the\\" one" <shop@example.com>',
        to=["Ada <ada@example.org>", '"Lovelace, Bob" <bob@example.org>', "eve@example.org"],
        cc=["Zoë Müller <zoe@example.org>", "dan@example.org"],
        bcc=["hidden@example.net", "Also Hidden <also@example.net>"],
        reply_to=["Help <help@example.com>"],
    )
    yield "a comma in a name beyond ASCII", letter(
        from_email='"Müller, Zoë" <shop@example.com>',
        to=['"Łukasz, (Bob)" <bob@example.org>'],
    )
    yield "several to reply to", letter(reply_to=["a@example.com", "B <b@example.com>"])
    yield "a domain beyond ASCII", letter(to=["Ada <ada@müller.example>"])
    yield "fields", letter(
        headers={
            "X-Order": "42",
            "X-Long": "word " * 40 + "end",
            "List-Unsubscribe": "<https://example.com/u?a=b&c=d>, <mailto:u@example.com>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            "In-Reply-To": "<1@example.com>",
        }
    )
    yield "a field beyond ASCII", letter(headers={"X-Name": "Grüße"})
    yield "files", with_files(with_html(letter()))
    yield "an image", with_image(letter())
    yield "files and no HTML", with_files(letter())
    yield "nobody to see", letter(to=[], bcc=["hidden@example.net"])


sent = []
for provider in PROVIDERS:
    with get_connection(f"anymail.backends.{provider}.EmailBackend") as connection:
        for name, message in messages():
            if name == "html alone":
                message.content_subtype = "html"
            message.connection = connection
            told = {
                "provider": provider.removeprefix("amazon_"),
                "name": name,
                "from": "shop@example.com",
                "recipients": [
                    email.utils.parseaddr(recipient)[1] for recipient in message.recipients()
                ],
                "message": base64.b64encode(
                    message.message().as_bytes(linesep="\r\n")
                ).decode(),
            }
            try:
                message.send()
            except AnymailUnsupportedFeature as refusal:
                told["refused"] = str(refusal)
            sent.append(told)
print(json.dumps(sent))
