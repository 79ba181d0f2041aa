"""A Celery task that sends with Django's mail, set up as their documentation does."""

import os

import django
from celery import Celery, shared_task
from django.conf import settings

settings.configure(EMAIL_HOST="127.0.0.1", EMAIL_PORT=int(os.environ["SINK_PORT"]), USE_TZ=True)
django.setup()

from django.core.mail import EmailMessage  # noqa: E402  (it reads the settings)

app = Celery("tasks", broker=f"redis://127.0.0.1:{os.environ['REDIS_PORT']}/0")
app.set_default()
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@shared_task
def send_mail(subject: str, text: str, sender: str, recipient: str) -> None:
    EmailMessage(subject, text, sender, [recipient]).send()
