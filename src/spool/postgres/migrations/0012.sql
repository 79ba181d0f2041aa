-- What a mail is also known as goes with it.
CREATE INDEX aliases_mail ON aliases (mail);
DELETE FROM aliases a WHERE NOT EXISTS (SELECT FROM mails m WHERE m.id = a.mail);
