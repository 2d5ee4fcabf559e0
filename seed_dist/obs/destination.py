"""Where the copy of a journal goes: what was asked for, else MLFLOW_TRACKING_URI, else the run's own sqlite file."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from seed_dist.errors import ConfigError
from seed_dist.redaction import redact

VARIABLE = "MLFLOW_TRACKING_URI"
DATABASE = "mlflow.db"
_FILES = "mlflow_files"
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def tracking_uri(asked: str | None, run: Path) -> str:
    """The address, with its secrets. ConfigError where it is none that MLflow can keep runs at."""
    uri = asked or os.environ.get(VARIABLE) or own_database(run)
    if uri.partition(":")[0].partition("+")[0] not in _SCHEMES:
        name = "The tracking address" if asked else VARIABLE
        raise ConfigError(
            [
                f"{name} is {redact(uri)!r}; give a server, http://HOST:PORT, or a database, sqlite:///PATH. "
                "(Folders of files are no longer kept up by MLflow.)"
            ]
        )
    return uri


def own_database(run: Path) -> str:
    """Address of the sqlite file in the run directory."""
    return f"sqlite:///{run.resolve() / DATABASE}"


def files_beside(uri: str) -> Path | None:
    """Where the files of runs in a sqlite file belong: a folder beside it. None for all other addresses."""
    kind, there, path = uri.partition(":///")
    if kind.partition("+")[0] != "sqlite" or not there or not path:
        return None
    return Path(path.partition("?")[0]).resolve().parent / _FILES


def with_secrets_apart(uri: str) -> str:
    """A server's address without user and password: those go where MLflow's client looks for them, so that none of its
    messages shows them. A database's address stays as it is.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username or "")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
