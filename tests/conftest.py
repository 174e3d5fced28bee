"""For all tests: no network. What is not on this machine is missing at once, not after retries."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports huggingface_hub
