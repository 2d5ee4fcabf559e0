"""Fetches one commit of a Hugging Face repository into the assets folder: the only code here that uses the network.

Files are collected in REVISION.partial, compared with the checksums that the hub states, and renamed to REVISION with
their manifest inside. A fetch that ends early leaves the finished files there, and the next one takes up from them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from seed_dist.assets.manifest import AssetFile, AssetManifest, differences, read_manifest
from seed_dist.assets.reference import HubReference
from seed_dist.assets.selection import wanted_files
from seed_dist.errors import ConfigError, DataError, MismatchError, SeedDistError
from seed_dist.fsio import PARTIAL_SUFFIX, folder_lock, fsync_folder, sha256_file

# What a failing connection raises: the base class of the library's HTTP client, which is another one in hub 1 and 2.
_HTTP_ERROR: type[Exception] = next(base for base in HfHubHTTPError.__mro__[1:] if base.__name__ == "HTTPError")


def fetch(hub: HubReference) -> tuple[AssetManifest, bool]:
    """The asset's manifest, and whether anything had to be fetched; files that are there are read and compared.

    Raises ConfigError for what the hub does not have or give, MismatchError for a file that is not what the hub says,
    SeedDistError where the connection fails: run the same command again. LockedError while another process fetches it.
    """
    folder = hub.folder
    with folder_lock(folder.parent, "python -m seed_dist.assets fetch"):
        manifest = read_manifest(folder)
        if manifest is not None and not differences(folder, manifest, hashed=True):
            return manifest, False
        partial = folder.with_name(f"{folder.name}{PARTIAL_SUFFIX}")
        if folder.exists():
            _take_apart(folder, manifest, partial)
        manifest = _fetch_into(partial, hub)
        os.replace(partial, folder)
        fsync_folder(folder.parent)
        return manifest, True


def _take_apart(folder: Path, manifest: AssetManifest | None, partial: Path) -> None:
    """Move an asset that is not what came back among the unfinished, without the files that are wrong."""
    recorded = {} if manifest is None else manifest.files
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        expected = recorded.get(path.relative_to(folder).as_posix())
        if expected is None or sha256_file(path) != expected.sha256:
            path.unlink()
    if partial.exists():
        shutil.rmtree(partial)
    os.replace(folder, partial)


def _fetch_into(partial: Path, hub: HubReference) -> AssetManifest:
    try:
        info = HfApi().model_info(hub.repository, revision=hub.revision, files_metadata=True)
        siblings = {item.rfilename: item for item in info.siblings or []}
        names = wanted_files(list(siblings))
        if not names:
            raise DataError(f"{hub} holds no file that is read here. Check the repository's name.")
        snapshot_download(hub.repository, revision=hub.revision, local_dir=partial, allow_patterns=names)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ConfigError([_refusal(hub, error)]) from error
    except OfflineModeIsEnabled as error:
        raise ConfigError(["HF_HUB_OFFLINE is set, so nothing can be fetched; unset it for this command"]) from error
    except (_HTTP_ERROR, LocalEntryNotFoundError, ConnectionError) as error:
        raise SeedDistError(
            f"{hub} could not be fetched: {_first_line(error)}. Files that are complete are kept in {partial}; run the "
            "same command again to go on. Behind a proxy set HTTPS_PROXY, for a mirror HF_ENDPOINT."
        ) from error
    if info.sha != hub.revision:
        raise MismatchError(f"the commit that the hub gives for {hub}", info.sha, hub.revision, "Check the revision.")
    files = {name: _checked(partial, name, siblings[name]) for name in names}
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    licence = getattr(info.card_data, "license", None)
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    fetched = datetime.now(timezone.utc).isoformat(timespec="seconds")
    manifest = AssetManifest(str(hub), hub.revision, licence, fetched, files)
    manifest.write(partial)
    return manifest


def _checked(partial: Path, name: str, stated: Any) -> AssetFile:
    """A file that is what the hub says: SHA-256 of those in large-file storage, git's own checksum of the others."""
    path = partial / name
    sha256 = sha256_file(path)
    if stated.lfs is not None:
        found, expected = sha256, stated.lfs.sha256
    else:
        found, expected = _git_checksum(path), stated.blob_id
    if found != expected:
        path.unlink()
        action = "The file was removed; run the same command again. If it stays so, do not use this repository."
        raise MismatchError(f"the checksum of {name} as it arrived", found, expected, action)
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
    return AssetFile(path.stat().st_size, sha256)


def _git_checksum(path: Path) -> str:
    """SHA-1 of git's blob object: the header `blob SIZE`, a zero byte, the content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _refusal(hub: HubReference, error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return f"{hub} asks for its terms to be accepted; do so on its page, then log in with: hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return f"{hub.repository} has no commit {hub.revision}; take one from its page under `Files`, `History`"
    return f"{hub.repository} is not on the hub, or not for you: check the name, or log in with: hf auth login"


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:200]
