"""Brings the data to the present schema; run again, it changes nothing."""

from store import Store

ITEMS = ("a rope", "an anchor", "a lamp")

with Store(timeout=10.0) as store:
    if store.call("SETNX", "schema", "1"):
        store.call("RPUSH", "items", *ITEMS)
        print(f"schema 1: {len(ITEMS)} items put on sale")
    else:
        print(f"schema {store.call('GET', 'schema')} is in place")
