"""Reads a stream of events as an agent's client does: says how long the first took, tells the
server that it has it, which sends the second only then, and counts them.
usage: stream.py URL SEEN-URL"""

import sys
import time
import urllib.request

url, seen = sys.argv[1:]
began = time.monotonic()
number = 0
for line in urllib.request.urlopen(url, timeout=60):
    if not line.startswith(b"data: "):
        continue
    if number == 0:
        print(f"the first event after {time.monotonic() - began:.3f} s", flush=True)
        urllib.request.urlopen(seen, timeout=60).read()
    elif number == 1 and b"not told" in line:
        sys.exit("the first event came with the last")
    number += 1
print(f"{number} events")
sys.exit(number != 600)
