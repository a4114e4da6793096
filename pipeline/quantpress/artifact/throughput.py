"""What throughput.json calls speed, and the rule by which a speed-up is called one; for bench and report alike."""

from __future__ import annotations

# A speed-up is called only if its whole interval is further from 1 than this, over so many pairs.
INDIFFERENCE = 0.03
MIN_PAIRS = 3

# What is called speed, by the kind of load: at a concurrency, and where requests arrive at a rate.
SERVER, REQUEST = "output tokens/s", "output tokens/s of a request"
