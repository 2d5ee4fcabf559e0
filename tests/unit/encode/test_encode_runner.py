"""The runner with small arithmetic encoders: one to one with the source, restartable, never mixing."""

import os
import subprocess
import sys
import textwrap
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset

from seed_dist.data.manifest import load_manifest
from seed_dist.data.reader import FeatureShards, ImageShards, PairedFeatures
from seed_dist.data.repair import repair
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.data.verification import verify
from seed_dist.dist.preempt import StoppedError, StopRequest
from seed_dist.encode import runner
from seed_dist.encode.runner import EncodeOptions
from seed_dist.errors import DataError, MismatchError
from tests.pictures import content, fill


def encode_split(source, outputs, batch_size=256, threads=1, **options):
    return runner.encode_split(source, outputs, EncodeOptions(batch_size, threads, **options))


class Means:
    """The mean of each colour channel and its position: stands in for a model, counts what it is given."""

    source = "images"

    def __init__(self, target="patches", weights="w1", dtype="float16", spoil=None):
        self.target, self.weights, self.dtype, self.spoil = target, weights, dtype, spoil
        self.seen = Counter()

    def preprocess(self, image):
        return torch.from_numpy(np.asarray(image, dtype=np.float32).copy()).permute(2, 0, 1)

    def details(self):
        return {
            "encoder": "means",
            "weights_sha256": self.weights,
            "preprocessing": "none",
            "dtype": self.dtype,
            "shape": (3, 2),
        }

    def check_source(self, source):
        pass

    def __call__(self, batch):
        self.seen.update(batch.keys)
        means = batch.pixels[self.preprocess].mean(dim=(2, 3))
        out = torch.stack([means, means * 2], dim=2).numpy().astype(self.dtype)
        if self.spoil in batch.keys:
            out[batch.keys.index(self.spoil), 1, 1] = np.inf
        return out


class Doubled(Means):
    """Features of features."""

    source, preprocess = "patches", None

    def __call__(self, batch):
        self.seen.update(batch.keys)
        return batch.features * 2


class CaptionLengths(Means):
    """Looks at captions only."""

    preprocess = None

    def __call__(self, batch):
        return np.array([[[len(caption)] * 2] * 3 for caption in batch.captions], dtype=self.dtype)


@pytest.fixture
def images(tmp_path):
    """WORK/images/train: 25 images in shards of 10, one of them rejected."""
    source = fill(tmp_path / "source", 25)
    (source / "0004.txt").write_text("")
    shard_source(source, tmp_path / "images" / "train", ShardOptions(10, 1.0, 1))
    return tmp_path / "images" / "train"


def expected_means(images):
    shards = ImageShards(images)
    means = np.stack([np.asarray(shards.image(i), dtype=np.float32).mean(axis=(0, 1)) for i in range(len(shards))])
    return np.stack([means, means * 2], axis=2)


def test_features_are_one_to_one_with_their_source(tmp_path, images):
    out = tmp_path / "features" / "patches" / "train"
    (manifest,) = encode_split(images, {out: Means()}, batch_size=4)
    source, features = ImageShards(images), FeatureShards(out)
    assert features.keys == source.keys
    assert features.captions == source.captions
    assert [(e.name, e.samples) for e in manifest.shards] == [(e.name, e.samples) for e in source.manifest.shards]
    assert manifest == load_manifest(out)
    assert np.allclose(features.read(np.arange(24)), expected_means(images), atol=0.2)  # half precision near 255


def test_the_manifest_names_encoder_and_parents(tmp_path, images):
    out = tmp_path / "out"
    (manifest,) = encode_split(images, {out: Means()})
    fingerprint = load_manifest(images).fingerprint
    assert manifest.kind == "features"
    assert manifest.parents == {"images": fingerprint, "weights": "w1"}
    for name, value in {"target": "patches", "source": "images", "encoder": "means", "weights_sha256": "w1",
                        "preprocessing": "none", "dtype": "float16", "shape": [3, 2]}.items():  # fmt: skip
        assert load_manifest(out).details[name] == value
    (second,) = encode_split(out, {tmp_path / "second": Doubled("causal", "w2")})
    assert second.parents == {"images": fingerprint, "patches": manifest.fingerprint, "weights": "w2"}


def test_plain_webdataset_reads_the_features(tmp_path, images):
    encode_split(images, {tmp_path / "out": Means(dtype="float32")})
    pattern = str(tmp_path / "out" / "shard-{000000..000002}.tar")
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False).decode().to_tuple("__key__", "npy"))
    assert [key for key, _ in samples] == ImageShards(images).keys
    assert np.allclose(np.stack([array for _, array in samples]), expected_means(images), atol=1e-3)


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (3, 2), (7, 4), (256, 1)])
def test_batches_and_threads_do_not_change_the_bytes(tmp_path, images, batch_size, threads):
    encode_split(images, {tmp_path / "a": Means()}, batch_size=5, threads=1)
    encode_split(images, {tmp_path / "b": Means()}, batch_size, threads)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_several_targets_share_one_decode(tmp_path, images, monkeypatch):
    decoded = Counter()
    image = ImageShards.image
    monkeypatch.setattr(ImageShards, "image", lambda self, i: (decoded.update([i]), image(self, i))[1])
    encoders = [Means(), Means("image_embedding", dtype="float32"), CaptionLengths("text_features")]
    shared = encoders[0].preprocess
    encoders[1].preprocess = shared
    encode_split(images, {tmp_path / "features" / e.target / "train": e for e in encoders}, batch_size=4)
    assert decoded == Counter(range(24))
    assert [sum(encoder.seen.values()) for encoder in encoders[:2]] == [24, 24]
    together = PairedFeatures(tmp_path, "train", [encoder.target for encoder in encoders]).read(np.array([0, 23]))
    assert together["image_embedding"].dtype == np.float32
    assert together["text_features"][:, 0, 0].tolist() == [len("caption number 0"), len("caption number 24")]


def test_captions_alone_need_no_decoding(tmp_path, images, monkeypatch):
    monkeypatch.setattr(ImageShards, "image", lambda self, i: pytest.fail("an image was decoded"))
    encode_split(images, {tmp_path / "out": CaptionLengths("text_features")})


def test_a_finished_set_is_left_as_it_is(tmp_path, images):
    first, again = Means(), Means()
    encode_split(images, {tmp_path / "out": first})
    before = content(tmp_path / "out")
    (manifest,) = encode_split(images, {tmp_path / "out": again})
    assert content(tmp_path / "out") == before
    assert again.seen == Counter()
    assert manifest.samples == 24


class StopAt(Means):
    """Fails at a sample, as a machine that is switched off would."""

    def __init__(self, key):
        super().__init__()
        self.key = key

    def __call__(self, batch):
        if self.key in batch.keys:
            raise InterruptedError
        return super().__call__(batch)


def test_only_unfinished_shards_are_made_again(tmp_path, images):
    with pytest.raises(InterruptedError):
        encode_split(images, {tmp_path / "out": StopAt("000000015")}, batch_size=4)
    assert list((tmp_path / "out").rglob("*.partial")) == []
    with pytest.raises(DataError, match="not finished"):
        FeatureShards(tmp_path / "out")
    rest, other = Means(), Means("image_embedding")
    encode_split(images, {tmp_path / "out": rest, tmp_path / "other": other}, batch_size=4)
    assert sorted(rest.seen) == [f"{i:09d}" for i in range(10, 25)]  # the first shard was finished
    assert len(other.seen) == 24
    encode_split(images, {tmp_path / "unbroken": Means()}, batch_size=4)
    assert content(tmp_path / "out") == content(tmp_path / "unbroken")


def test_a_stop_is_heard_between_shards_and_what_is_finished_is_kept(tmp_path, images):
    stop, folder = StopRequest(), tmp_path / "patches"
    stop.reason = "time limit"
    with pytest.raises(StoppedError, match="time limit"):
        encode_split(images, {folder: Means()}, stop=stop)
    kept = sorted(path.name for path in folder.glob("*.tar"))
    assert len(kept) == 1
    encoder = Means()
    encode_split(images, {folder: encoder})
    encode_split(images, {tmp_path / "straight": Means()})
    assert content(folder) == content(tmp_path / "straight")
    assert len(encoder.seen) < len(ImageShards(images)), "the finished shard is not made again"
    encode_split(images, {folder: Means()}, stop=stop)  # nothing is left to do, so there is nothing to stop


def test_a_killed_run_is_continued_to_the_same_bytes(root, tmp_path, images):
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(root / "tests/unit/encode")!r})
        from test_encode_runner import Means, encode_split
        encode_split(Path({str(images)!r}), {{Path({str(tmp_path / "out")!r}): Means()}}, batch_size=4)
    """)
    environment = {**os.environ, "PYTHONPATH": str(root), "SEED_DIST_FAULT": "encode.shard_announced:0:1:kill"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    assert run.returncode == -9, run.stderr
    rest = Means()
    encode_split(images, {tmp_path / "out": rest}, batch_size=4)
    assert len(rest.seen) == 5
    encode_split(images, {tmp_path / "unbroken": Means()}, batch_size=4)
    assert content(tmp_path / "out") == content(tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Means(weights="w2"), "weights_sha256 of .*out is 'w1', but 'w2' is needed"),
        (Means(dtype="float32"), "dtype of .*out is 'float16', but 'float32' is needed"),
        (Means("image_embedding"), "target of .*out is 'patches', but 'image_embedding'"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_weights_or_dtypes_are_never_mixed_in(tmp_path, images, other, message, finished):
    if finished:
        encode_split(images, {tmp_path / "out": Means()})
    else:
        with pytest.raises(InterruptedError):
            encode_split(images, {tmp_path / "out": StopAt("000000015")})
    before = content(tmp_path / "out")
    with pytest.raises(MismatchError, match=message):
        encode_split(images, {tmp_path / "out": other})
    assert content(tmp_path / "out") == before


def test_another_source_is_refused(tmp_path, images):
    encode_split(images, {tmp_path / "out": Means()})
    shard_source(fill(tmp_path / "new", 24), tmp_path / "images2", ShardOptions(10, 0.0, 1))
    with pytest.raises(MismatchError, match=r"parents.images of"):
        encode_split(tmp_path / "images2", {tmp_path / "out": Means()})


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_values_that_are_not_finite_name_the_sample(tmp_path, images, dtype):
    wanted = r"1 samples have none \(not_finite 1\).* allows 0 of 24.*000000017 .*'caption number 17'.*--max-reject"
    with pytest.raises(DataError, match=wanted):
        encode_split(images, {tmp_path / "out": Means(dtype=dtype, spoil="000000017")}, batch_size=4)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / "shard-000001.tar").exists()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_sample_that_is_not_finite_is_set_aside_alone(tmp_path, images, dtype):
    (manifest,) = encode_split(
        images, {tmp_path / "out": Means(dtype=dtype, spoil="000000017")}, batch_size=4, max_reject_fraction=0.05
    )
    encode_split(images, {tmp_path / "sound": Means(dtype=dtype)}, batch_size=4)
    features, sound = FeatureShards(tmp_path / "out"), FeatureShards(tmp_path / "sound")
    row = sound.keys.index("000000017")
    others = np.delete(np.arange(24), row)
    assert features.keys == sound.keys
    assert features.read(others).tobytes() == sound.read(others).tobytes()
    assert not features.read(np.array([row])).any()
    assert features.quarantined == {row}
    assert manifest.details["rejected"] == {"not_finite": 1}
    (reject,) = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert (reject["source"], reject["shard"]) == ("000000017", "shard-000001.tar")
    assert "caption number 17" in reject["detail"]
    assert not (tmp_path / "sound" / "rejects.parquet").exists()


class Refuses(Means):
    """Cannot take one sample."""

    def __call__(self, batch):
        if "caption number 21" in batch.captions:
            raise ValueError("a picture of nothing")
        return super().__call__(batch)


def test_what_is_set_aside_is_missing_from_all_that_is_made_of_it(tmp_path, images):
    folders = {name: tmp_path / "features" / name / "train" for name in ("patches", "image_embedding", "causal")}
    options = {"batch_size": 4, "max_reject_fraction": 0.1}
    encode_split(images, {folders["patches"]: Means(spoil="000000017")}, **options)
    encode_split(images, {folders["image_embedding"]: Refuses("image_embedding", dtype="float32")}, **options)
    (manifest,) = encode_split(folders["patches"], {folders["causal"]: Doubled("causal", "w2")}, **options)
    assert manifest.details["rejected"] == {"source_quarantined": 1}
    paired, plain = PairedFeatures(tmp_path, "train", ["causal", "image_embedding"]), FeatureShards(folders["causal"])
    kept = [row for row, key in enumerate(plain.keys) if key not in ("000000017", "000000021")]
    assert len(paired) == len(kept) == 22
    assert paired.keys == [plain.keys[row] for row in kept]
    assert paired.captions == [plain.captions[row] for row in kept]
    assert (paired.read(np.arange(22))["causal"] == plain.read(np.array(kept))).all()
    assert np.isfinite(paired.read(np.arange(22))["causal"]).all()


def test_too_many_set_aside_stop_the_run_and_more_allowance_ends_it(tmp_path, images):
    class Broken(Means):
        def __call__(self, batch):
            return np.full_like(super().__call__(batch), np.nan)

    with pytest.raises(DataError, match=r"not_finite 9.* allows 2 of 24"):
        encode_split(images, {tmp_path / "out": Broken()}, max_reject_fraction=0.1)
    (manifest,) = encode_split(images, {tmp_path / "out": Broken()}, max_reject_fraction=1.0)
    assert manifest.details["rejected"] == {"not_finite": 24}


def test_a_damaged_image_stops_the_encoder(tmp_path, images):
    path = images / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[int(ImageShards(images)._files.index.offset[12]) + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"sample 000000013 in .*shard-000001.tar has checksum"):
        encode_split(images, {tmp_path / "out": Means()}, batch_size=4, threads=2)


def test_an_unfinished_source_is_refused(tmp_path, images):
    (images / "manifest.json").unlink()
    with pytest.raises(DataError, match="exists but is not finished"):
        encode_split(images, {tmp_path / "out": Means()})


def test_a_damaged_shard_of_features_is_the_only_one_that_is_encoded_again(tmp_path, images):
    out = tmp_path / "features" / "patches" / "train"
    encode_split(images, {out: Means()})
    assert verify(out, progress=lambda size: None) == []
    whole, path = content(out), out / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[650] ^= 1
    path.write_bytes(data)
    (finding,) = verify(out, progress=lambda size: None)
    assert finding.path == path
    assert "sample 000000010 has checksum" in finding.what
    (line,) = repair(out, [finding], 1, encode=None)
    assert "the shards shard-000001.tar are made, the others kept" in line
    encode_split(images, {out: (again := Means())})
    assert {key for key in again.seen if key} == {f"{i:09d}" for i in range(10, 20)}
    assert content(out) == whole


def test_features_of_images_that_were_made_anew_are_found(tmp_path, images):
    out = tmp_path / "features" / "patches" / "train"
    encode_split(images, {out: Means()})
    (tmp_path / "source" / "0004.txt").write_text("mended")
    shard_source(tmp_path / "source", images, ShardOptions(10, 1.0, 1, update=True))
    (finding,) = verify(out, quick=True, progress=lambda size: None)
    assert "it was made from images with fingerprint" in finding.what
