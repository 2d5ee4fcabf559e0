"""How a backbone is named, and where its folder lies. Never in the network: compute nodes have none.

- `embedded:NAME` ships with the package;
- `hub:OWNER/NAME@REVISION` is that commit of a Hugging Face repository, fetched before by `python -m seed_dist.assets`;
- anything else is a local folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from seed_dist.assets.location import ASSETS_VARIABLE, assets_folder
from seed_dist.assets.manifest import differences, read_manifest
from seed_dist.errors import ConfigError, DataError

EMBEDDED = Path(__file__).parent.parent / "glyphs" / "weights"
_EMBEDDED = "embedded:"
_HUB = "hub:"
_FORM = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
# Per option of the recipe's `backbones`: what needs it, and what does not.
_NEEDED = {
    "image_encoder": "needed to encode patches, and causal embeddings from them, and to read pictures; "
    "stages 1 and 2 train from cached features without it",
    "generation_encoder": "needed to encode image_embedding or text_features, and to judge paintings; "
    "all stages train from cached features without it",
    "text_tokenizer": "needed by stage 1 and by retrieval; stages 2 and 3 train without it",
    "qformer": "needed by stage 1; --set backbones.qformer=null starts it from random weights",
    "language_model": "needed by stage 3 and its evaluation; stages 1 and 2 train without it",
    "painter": "needed to paint (--paint, evaluation of paintings); everything else works without it",
}


@dataclass(frozen=True)
class HubReference:
    """One commit of one repository."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"{_HUB}{self.repository}@{self.revision}"

    @property
    def folder(self) -> Path:
        return assets_folder() / self.repository.replace("/", "--") / self.revision

    @property
    def fetch_command(self) -> str:
        return f"python -m seed_dist.assets fetch {self}"


def hub_reference(reference: str) -> HubReference | None:
    """The parts of a hub reference, None for the other kinds. ConfigError where it names no commit."""
    if not reference.startswith(_HUB):
        return None
    parts = _FORM.fullmatch(reference)
    if parts is None:
        raise ConfigError(
            [
                f"backbone {reference!r} must have the form hub:OWNER/NAME@REVISION with REVISION a full commit hash "
                "(40 lower-case hex digits). A branch or tag is not enough: it may be moved to other weights, and "
                "features of both would be mixed. The hash stands on the repository's page under `Files`, `History`"
            ]
        )
    return HubReference(parts["repository"], parts["revision"])


def resolve(reference: str, option: str | None = None) -> Path:
    """The folder of a backbone reference; `option` is the one of the recipe's `backbones` that it was given for.

    ConfigError names what was looked for, what exists and what to do; DataError a fetched asset whose files are not
    those that came (names and sizes; `python -m seed_dist.assets verify` reads their contents).
    """
    if reference.startswith(_EMBEDDED):
        return _embedded(reference)
    if (hub := hub_reference(reference)) is not None:
        return _fetched(hub, option)
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        name = f"backbones.{option or 'OPTION'}"
        which = "" if option else f", OPTION being the one that is {reference!r}"
        raise ConfigError(
            [
                f"backbone {reference!r} is no folder (looked for {folder.absolute()}); put the model's folder "
                f"(configuration and safetensors) there, or say where it is with --set {name}=PATH{which}; "
                f"those that ship with the package are {_EMBEDDED}NAME{_need(option)}"
            ]
        )
    return folder


def _embedded(reference: str) -> Path:
    folder = EMBEDDED / reference.removeprefix(_EMBEDDED)
    if not folder.is_dir():
        names = ", ".join(f"{_EMBEDDED}{path.name}" for path in sorted(EMBEDDED.iterdir()) if path.is_dir())
        raise ConfigError([f"backbone {reference!r} does not ship with the package; these do: {names}"])
    return folder


def _fetched(hub: HubReference, option: str | None) -> Path:
    manifest = read_manifest(hub.folder)
    if manifest is None:
        raise ConfigError(
            [
                f"backbone {str(hub)!r} has not been fetched (looked for {hub.folder}, below {ASSETS_VARIABLE}). On a "
                f"node with internet that sees this folder: {hub.fetch_command}{_need(option)}"
            ]
        )
    if problems := differences(hub.folder, manifest, hashed=False):
        raise DataError(
            f"backbone {str(hub)!r} in {hub.folder} is not what was fetched: {'; '.join(problems)}. "
            f"On a node with internet: {hub.fetch_command}"
        )
    return hub.folder


def _need(option: str | None) -> str:
    return f". backbones.{option} is {_NEEDED[option]}" if option else ""
