"""aiosmtpd, which lets in who shows a token that this OAuth 2 server has signed.

xoauth2_server.py ISSUER [taken-back]: prints its port, then a line of JSON for each login and each
mail. With `taken-back` it refuses the first token that it sees, whenever it sees it.
"""
import asyncio
import base64
import json
import sys
import time
import urllib.request
import warnings

from aiosmtpd.smtp import MISSING, SMTP, AuthResult
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA256

warnings.simplefilter("ignore")
ISSUER = sys.argv[1]
TAKEN_BACK = sys.argv[2:] == ["taken-back"]


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(text):
    return int.from_bytes(decoded(text), "big")


def claims(token):
    """What the token says, if the OAuth 2 server has signed it."""
    head, said, signature = token.split(".")
    kid = json.loads(decoded(head))["kid"]
    with urllib.request.urlopen(f"{ISSUER}/jwks") as answer:
        keys = {key["kid"]: key for key in json.load(answer)["keys"]}
    key = RSAPublicNumbers(number(keys[kid]["e"]), number(keys[kid]["n"])).public_key()
    key.verify(decoded(signature), f"{head}.{said}".encode(), PKCS1v15(), SHA256())
    return json.loads(decoded(said))


def tell(**what):
    print(json.dumps(what), flush=True)


class Handler:
    first = None

    def is_good(self, user, token):
        self.first = self.first or token
        if TAKEN_BACK and token == self.first:
            return False
        said = claims(token)
        return user == "mail@example.com" and said["scope"] == "mail" and said["exp"] > time.time()

    async def auth_XOAUTH2(self, server, args):
        # A token is, as a rule, longer than what fits into the command (RFC 4954 §4).
        if len(args) > 1:
            said = base64.b64decode(args[1])
        else:
            said = await server.challenge_auth("")
        if said is MISSING:
            return AuthResult(success=False)
        user, bearer, *_ = said.decode().split("\x01")
        token = bearer.removeprefix("auth=Bearer ")
        is_good = self.is_good(user.removeprefix("user="), token)
        tell(login=user, token=token, good=is_good)
        if is_good:
            return AuthResult(success=True, auth_data=user)
        told = await server.challenge_auth(b'{"status":"401","schemes":"bearer"}')
        if told is MISSING:
            return AuthResult(success=False)
        return AuthResult(success=False, handled=False)

    async def handle_DATA(self, server, session, envelope):
        tell(mail=envelope.rcpt_tos, login=session.authenticated)
        return "250 2.0.0 taken"


class Server(SMTP):
    # What a login may take (RFC 4954 §4).
    line_length_limit = 12288


async def main():
    handler = Handler()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Server(handler, auth_required=True, auth_require_tls=False), "127.0.0.1", 0
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())
