"""Checks finished sets of images or features, every byte of them: python data_prep/verify.py DIR [DIR ...]

Looked at are: the manifest against the files (missing, extra, sizes), SHA-256 of every shard, its tar to the end, every
sample's place and checksum in the index, the index and the list of rejects against the manifest, and the sets that
features were made from. Nothing is changed without --repair.

  verify.py runs/big/images/train                 everything that is wrong, one line each, with what to do
  verify.py runs/big/images/train --quick         what can be seen without reading the shards
  verify.py runs/big/images/train --repair        make again what is broken, from the source or by the encoder it was
                                                  made by, and leave all other files untouched

Exit code: 0 intact (or mended), 3 something is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from seed_dist.cli import run_command
from seed_dist.data.assembly import ShardRecord
from seed_dist.data.manifest import MANIFEST_NAME, Manifest, load_manifest
from seed_dist.data.progress import progress_bar
from seed_dist.data.repair import repair
from seed_dist.data.verification import Finding, verify
from seed_dist.errors import ConfigError, DataError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folder of a finished set")
    parser.add_argument("--quick", action="store_true", help="read no shard: sizes, manifest, index, rejects only")
    parser.add_argument("--repair", action="store_true", help="make again what is broken, and only that")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    given = parser.parse_args()
    if given.workers < 1:
        raise ConfigError([f"--workers is {given.workers}; at least 1 is needed"])
    wrong = sum(_checked(folder, given) for folder in given.folders)
    if wrong:
        raise DataError(f"{wrong} of {len(given.folders)} sets are not intact; what to do is said above.")


def _checked(folder: Path, given: argparse.Namespace) -> bool:
    """Whether the set is broken, and stays so."""
    findings = _findings(folder, given)
    for finding in findings:
        print(finding)
    if findings and given.repair:
        for line in repair(folder, findings, given.workers, _encode_shards):
            print(line)
        if not (folder / MANIFEST_NAME).exists():
            return True  # features that are to be encoded again
        findings = _findings(folder, given)
        for finding in findings:
            print(f"still wrong: {finding}")
    if not findings:
        manifest = load_manifest(folder)
        how = "sizes, index and manifest agree" if given.quick else "every byte is as it was written"
        print(f"{folder} is intact: {manifest.samples} samples in {len(manifest.shards)} shards, {how}")
    return bool(findings)


def _encode_shards(folder: Path, manifest: Manifest, shards: set[str], scratch: Path) -> Iterator[ShardRecord]:
    from seed_dist.encode.again import encode_shards  # torch, when it is needed

    return encode_shards(folder, manifest, shards, scratch)


def _findings(folder: Path, given: argparse.Namespace) -> list[Finding]:
    total = sum(path.stat().st_size for path in folder.glob("shard-*.tar"))
    with progress_bar(0 if given.quick else total, 0, f"verifying {folder.name}", "bytes") as bar:
        return verify(folder, quick=given.quick, workers=given.workers, progress=bar.update)


if __name__ == "__main__":
    sys.exit(run_command(main))
