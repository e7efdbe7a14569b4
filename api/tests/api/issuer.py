"""An identity provider that shares no code with the service: joserfc makes its keys and tokens.

GET /keys answers the JWKS, POST /token signs the JSON claims of the body, POST /rotate replaces the key.
Takes the algorithm as argument, prints its port, and ends when its standard input does.
"""

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from joserfc import jwk, jwt

ALGORITHM = sys.argv[1]


def new_key():
    parameters = {"use": "sig", "alg": ALGORITHM}
    if ALGORITHM == "RS256":
        key = jwk.RSAKey.generate_key(2048, parameters)
    else:
        key = jwk.ECKey.generate_key("P-256", parameters)
    key.ensure_kid()
    return key


class Provider(BaseHTTPRequestHandler):
    key = new_key()

    def do_GET(self):
        self.answer(json.dumps({"keys": [Provider.key.as_dict(private=False)]}))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/rotate":
            Provider.key = new_key()
            return self.answer("{}")
        header = {"alg": ALGORITHM, "kid": Provider.key.kid, "typ": "JWT"}
        self.answer(jwt.encode(header, json.loads(body), Provider.key, algorithms=[ALGORITHM]))

    def answer(self, text):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def end_with_stdin():
    sys.stdin.read()
    os._exit(0)


server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=end_with_stdin, daemon=True).start()
print(server.server_port, flush=True)
server.serve_forever()
