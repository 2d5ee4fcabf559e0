"""The one pre-processing: the pixels of stored images, the numbers of its settings, and its file."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seed_dist.data.codec import check_image, decode_image
from seed_dist.errors import DataError
from seed_dist.models.image_processor import SeedImageProcessor
from seed_dist.models.vision import FrozenClip, processor_of
from tests.pictures import odd_pictures, picture

PROCESSOR = SeedImageProcessor(8, "bicubic", (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("name", odd_pictures())
def test_a_picture_has_the_pixels_that_it_has_in_a_data_set(name):
    data = odd_pictures()[name]
    stored = decode_image(check_image(data)[1])
    (values,) = PROCESSOR(opened(data))
    assert torch.equal(values, PROCESSOR.preprocess(stored))
    assert values.std() > 0.1  # there is something on it


def test_known_numbers():
    values = PROCESSOR(Image.new("RGB", (3, 5), (255, 0, 51)))
    assert (values.shape, values.dtype) == ((1, 3, 8, 8), torch.float32)
    expected = torch.tensor([(1 - 0.48) / 0.27, (0 - 0.46) / 0.26, (0.2 - 0.41) / 0.28])
    torch.testing.assert_close(values, expected.view(1, 3, 1, 1).expand(1, 3, 8, 8))


def test_the_whole_picture_is_squashed():
    """Left half red, right half blue: both are still there, at their sides."""
    image = Image.new("RGB", (40, 10), "red")
    image.paste("blue", (20, 0, 40, 10))
    values = SeedImageProcessor(8, "bilinear", (0.0,) * 3, (1.0,) * 3)(image)[0]
    assert values[:, 4, 0].tolist() == [1, 0, 0]
    assert values[:, 4, -1].tolist() == [0, 0, 1]


def test_arrays_and_lists():
    images = [opened(picture(seed)) for seed in range(3)]
    together = PROCESSOR(images)
    arrays = [np.asarray(image) for image in images]
    for given in (tuple(images), arrays, np.stack(arrays)):
        assert torch.equal(PROCESSOR(given), together)
    assert torch.equal(PROCESSOR(arrays[0]), together[:1])
    assert PROCESSOR([]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cat.jpg", "images are a str. Give PIL images"),
        (Path("cat.jpg"), "images are a PosixPath"),
        (["cat.jpg"], "picture 0 is str. Give PIL images"),
        ([Image.new("L", (4, 4)), None], "picture 1 is NoneType"),
        (torch.zeros(1, 3, 4, 4), "images are a Tensor"),
        (np.zeros((4, 4, 3)), r"picture 0 is float64 \(4, 4, 3\).*uint8 \[height, width, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), r"picture 0 is uint8 \(4, 4, 4\)"),
        (np.zeros((4, 4), np.uint8), r"picture 0 is uint8 \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), "picture 0 cannot be used: 4 x 0 pixels; at least 2 a side"),
        (Image.new("RGB", (1, 1)), "picture 0 cannot be used: 1 x 1 pixels; at least 2 a side"),
        (Image.new("1", (20_000, 10_000)), "picture 0 cannot be used: 20000 x 10000 pixels; at most"),
    ],
)
def test_what_is_no_usable_picture_is_said(given, message):
    with pytest.raises(DataError, match=message):
        PROCESSOR(given)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(picture(1, "JPEG", size=(60, 60))[:-500])
    with (
        Image.open(tmp_path / "cut.jpg") as cut,
        pytest.raises(DataError, match=r"picture 70 \(.*cut.jpg\) cannot be used: .*truncated"),
    ):
        PROCESSOR([cut], first=70)


def test_the_frozen_clip_has_no_other_pre_processing():
    encoder = FrozenClip("embedded:clip")
    image = opened(odd_pictures()["turned.jpg"])
    assert torch.equal(encoder.preprocess(image), encoder.processor(image)[0])
    assert encoder.processor == processor_of("embedded:clip")
    settings = encoder._model._model.visual.preprocess_cfg  # what open_clip itself makes of the folder's
    assert encoder.processor == SeedImageProcessor(
        settings["size"], settings["interpolation"], tuple(settings["mean"]), tuple(settings["std"])
    )


def test_an_open_clip_folder_may_leave_settings_to_the_library(tmp_path):
    config = {"model_cfg": {"vision_cfg": {}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    found = processor_of(str(tmp_path))
    assert (found.size_px, found.interpolation) == (224, "bicubic")
    assert found.mean == (0.48145466, 0.4578275, 0.40821073)  # OpenAI's CLIP


def test_it_comes_back_from_its_file_and_from_another_process(tmp_path):
    PROCESSOR.save_pretrained(tmp_path)
    assert SeedImageProcessor.from_pretrained(tmp_path) == PROCESSOR
    assert pickle.loads(pickle.dumps(PROCESSOR)) == PROCESSOR


def test_transformers_reads_the_file_alike(tmp_path):
    from transformers import ViTImageProcessorPil  # after seed_dist.models, whose guard lets it load

    PROCESSOR.save_pretrained(tmp_path)
    theirs = ViTImageProcessorPil.from_pretrained(tmp_path)
    images = [opened(picture(seed, size=(30, 20))) for seed in range(3)]
    expected = theirs(images, return_tensors="pt").pixel_values
    torch.testing.assert_close(PROCESSOR(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(image_processor_type="CLIPImageProcessor"), "'CLIPImageProcessor', not 'Seed"),
        (lambda values: values.pop("size"), "'size'"),
        (lambda values: values.update(resample=0), "interpolation is 'nearest'; these are known: bicubic, bilinear"),
        (lambda values: values.update(image_mean="grey"), "could not convert"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, change, message):
    PROCESSOR.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        SeedImageProcessor.from_pretrained(tmp_path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"preprocessor_config\.json does not say"):
        SeedImageProcessor.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"holds no preprocessor_config\.json"):
        SeedImageProcessor.from_pretrained(tmp_path)
