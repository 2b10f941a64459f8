"""The health check: the server answers, and can reach redis."""

import sys
import urllib.request

with urllib.request.urlopen("http://127.0.0.1:8000/healthz", timeout=2) as answer:
    sys.exit(answer.status != 200)
