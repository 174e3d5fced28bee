"""`mpo serve`: the reward over HTTP."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path

import typer

from ..config import RunFolder, build_served, load_config, reachable
from ..redaction import redact_record
from ..service.guard import TOKEN_ENV, limits_for
from ..service.health import Health
from ..service.server import serve as run_server
from ..service.service import RewardService
from ..store import Store
from .runs import default_name, run_path
from .tables import in_brackets

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def serve(
    config: str = typer.Argument(..., help="A YAML file, or a preset such as sandbox/essay."),
    overrides: list[str] = typer.Argument(None, metavar="KEY=VALUE", help="Config overrides."),
    name: str = typer.Option("", help="The run's folder is runs/NAME; from the config if empty."),
    host: str = typer.Option("127.0.0.1", help="Address to bind; any other needs MPO_TOKEN."),
    port: int = typer.Option(8000, min=0, max=65535, help="Port to bind; 0 picks a free one."),
) -> None:
    """Serve the reward to other engines over HTTP.

    All state is in the run's folder: the same command continues the run, also after a crash. The
    config's model, data and trainer belong to the engine and are ignored.

    Example: mpo serve config.yaml service.every_items=640 --name a --port 8000
    """
    # For the log of the meta steps; access logs would hide it.
    logging.basicConfig(
        force=True, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    for handler in logging.root.handlers:  # of the server's log, too
        handler.addFilter(redact_record)
    loaded = load_config(config, list(overrides or []))
    label = name or default_name(loaded)
    limits = limits_for(host, os.environ.get(TOKEN_ENV) or None)
    # The engine may change between two starts of one run, the reward may not.
    engine = ("model", "data", "trainer")
    with RunFolder(run_path(label), loaded, ignore=engine, started_by=0) as run:
        for note in run.notes:
            typer.echo(note, err=True)
        if (step := _last_step(run.store)) is not None:
            typer.echo(f"{run.path} goes on from step {step}", err=True)
        served = build_served(loaded, run.path)
        service = RewardService(
            served.reward,
            run_id=label,
            settings=loaded.service,
            concurrency=served.concurrency,
            save=served.chats.keep,
            health=Health(
                served.reward,
                {role: partial(reachable, chat) for role, chat in served.clients.items()},
                served.down,
            ),
        )
        # Policy and data are the engine's: nobody here knows of them.
        mark = in_brackets(loaded.simulated_models)

        def ready(url: str) -> None:
            typer.echo(f"mpo serve{mark}: run {label!r} at {url}, documented at {url}/docs")
            for role, message in served.down.items():
                typer.echo(
                    f"warning: the model of role {role!r} does not answer yet: {message}. Known "
                    "judgements are served; the others are unscored until it does",
                    err=True,
                )

        run_server(service, host=host, port=port, limits=limits, ready=ready)
        step = _last_step(run.store)
    where = "" if step is None else f" from step {step}"
    typer.echo(f"stopped; the same command continues {run.path}{where}")


def _last_step(store: Path) -> int | None:
    """The last step of which something is scored; None for a service that has scored nothing."""
    if not store.exists():
        return None
    with Store(store, create=False) as opened:
        return opened.last_step()
