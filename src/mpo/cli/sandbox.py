"""`mpo sandbox`: the simulated model over HTTP."""

from __future__ import annotations

import typer

from mpo_sandbox.server import serve as run_server

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)


@app.callback()
def sandbox() -> None:
    """Serve the simulated model over HTTP."""


@app.command()
def serve(
    port: int = typer.Option(8100, min=0, max=65535, help="0 picks a free one."),
    host: str = typer.Option("127.0.0.1", help="Address to bind."),
    latency: float = typer.Option(0.0, min=0, help="Seconds that each answer takes."),
) -> None:
    """Serve the simulated model as an OpenAI-compatible endpoint, until interrupted.

    Models are sandbox-<seed>, with biases drawn by the seed, and sandbox-<seed>-unbiased.

    Example: mpo sandbox serve --port 8100
    """

    def ready(url: str) -> None:
        typer.echo(f"sandbox model at {url} (models sandbox-0, sandbox-1, …); Ctrl-C ends it")

    run_server(host, port, latency=latency, ready=ready)
