"""Several views of the same image: view 0 is the whole picture, the others are random crops of it.

Each view is a feature set of its own, `features/TARGET.view1/SPLIT`, with the shards, keys and order of view 0. So
views can be added later, a step of training reads one of them, and whatever knows nothing of views reads view 0.
"""

from __future__ import annotations

from pathlib import Path

VIEWED = ("patches", "image_embedding", "causal")  # the other targets are made once: of captions, or of view 0


def view_name(target: str, view: int) -> str:
    """Name of the feature set of a view; that of view 0 is the target's."""
    return f"{target}.view{view}" if view and target in VIEWED else target


def source_name(source: str, made: str) -> str:
    """Name of the feature set from which the set named `made` comes: that of `source`, in the same view."""
    _, dot, view = made.partition(".")
    return f"{source}{dot}{view}"


def target_and_view(name: str) -> tuple[str, int]:
    """What `view_name` joined."""
    target, dot, view = name.partition(".view")
    return target, int(view) if dot else 0


def source_folder(folder: Path, source: str) -> Path:
    """Where the set lies from which the features in WORK/features/TARGET/SPLIT come."""
    absolute = folder.absolute()
    work = absolute.parents[2] if len(absolute.parents) > 2 else absolute
    if source == "images":
        return work / "images" / absolute.name
    return work / "features" / source_name(source, absolute.parent.name) / absolute.name
