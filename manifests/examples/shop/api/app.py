"""The shop's page: what is on sale, and how often somebody looked, all of it from redis."""

import html
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from store import Store

PAGE = """<!doctype html><title>Shop</title><h1>Shop</h1>
<ul>{items}</ul>
<p>Visit number {visits}, answered by {replica}.</p>
"""


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            with Store() as store:
                if self.path == "/healthz":
                    return self.answer(200, store.call("PING"))
                visits = store.call("INCR", "visits")
                names = store.call("LRANGE", "items", 0, -1)
        except OSError as error:
            return self.answer(503, f"redis: {error}\n")
        items = "".join(f"<li>{html.escape(name)}</li>" for name in names)
        return self.answer(200, PAGE.format(items=items, visits=visits, replica=socket.gethostname()))

    def answer(self, code, text):
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form, *values):
        if self.path != "/healthz":
            print(f"{self.address_string()} {form % values}", flush=True)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("listening on port 8000", flush=True)
ThreadingHTTPServer(("", 8000), Page).serve_forever()
