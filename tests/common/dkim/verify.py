"""Verifies every signature of the messages in a directory, with the records that it is given.

verify.py DIRECTORY RECORDS: RECORDS is a JSON object from DNS name to TXT record. Prints, for each
message in the order of names, how many signatures verified.
"""
import json
import pathlib
import sys

import dkim

records = {
    name.rstrip(".").encode(): text.encode()
    for name, text in json.loads(pathlib.Path(sys.argv[2]).read_text()).items()
}


def txt(name, timeout=5):
    return records.get(name.rstrip(b"."))


for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    message = path.read_bytes()
    header = message.split(b"\r\n\r\n", 1)[0].lower()
    count = (b"\r\n" + header).count(b"\r\ndkim-signature:")
    good = 0
    for index in range(count):
        try:
            good += dkim.DKIM(message).verify(idx=index, dnsfunc=txt)
        except dkim.ValidationError as mistake:
            print(f"{path.name}, signature {index}: {mistake}", file=sys.stderr)
    print(good)
