"""`python -m mpo_sandbox`: the simulated model as an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import sys

from mpo.errors import MPOError

from .server import serve


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mpo_sandbox",
        description="Serve the simulated model as an OpenAI-compatible endpoint, until interrupted."
        " Models are sandbox-<seed>, with biases drawn by the seed, and sandbox-<seed>-unbiased.",
        epilog="Example: python -m mpo_sandbox --port 8100",
    )
    parser.add_argument("--port", type=int, default=8100, help="port; 0 picks a free one (8100)")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (127.0.0.1)")
    parser.add_argument(
        "--latency", type=float, default=0.0, help="seconds that each answer takes (0)"
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        parser.error(f"--port {options.port}: must be 0 to 65535")
    if options.latency < 0:
        parser.error(f"--latency {options.latency}: must not be negative")
    try:
        serve(options.host, options.port, latency=options.latency, ready=_say)
    except MPOError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _say(url: str) -> None:
    print(  # noqa: T201
        f"sandbox model at {url} (models sandbox-0, sandbox-1, …); Ctrl-C ends it", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
