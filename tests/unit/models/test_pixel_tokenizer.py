"""The pixel tokenizer of the study `pixels`: as many bits as SEED's codes, and one path for training and inference."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from seed_dist.config import load_recipe
from seed_dist.errors import MismatchError
from seed_dist.models.coder import load_coder
from seed_dist.models.model_files import module_fingerprint
from seed_dist.models.pixel_tokenizer import CODES, PixelTokenizer, as_tensor
from seed_dist.models.pretrained import SeedTokenizer


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = PixelTokenizer(dataclasses.replace(load_recipe("glyphs").codebook, size=30, width=8))
    torch.nn.init.normal_(made.quantizer.embedding.weight)
    return made


def test_as_many_bits_as_the_codes_of_the_recipe():
    recipe = load_recipe("glyphs")
    assert recipe.qformer.queries == CODES
    assert PixelTokenizer(recipe.codebook).quantizer.embedding.weight.shape == (recipe.codebook.size, 32)


def test_training_and_inference_go_through_the_same_numbers(model):
    pictures = torch.rand(3, 3, 64, 64) * 2 - 1
    made, quantized = model(pictures)
    codes = model.codes(pictures)
    assert codes.shape == (3, CODES)
    assert torch.equal(codes, quantized.codes)
    assert torch.allclose(model.decode(codes), made.clamp(-1, 1), atol=1e-5)
    assert made.shape == pictures.shape


def test_a_code_belongs_to_its_place(model):
    """Rows of the grid follow one another: what changes in the lower right corner leaves the first code alone."""
    pictures = torch.zeros(1, 3, 64, 64)
    changed = pictures.clone()
    changed[..., 56:, 56:] = 1
    before, after = model.encoder[1](model.encoder[0](pictures)), model.encoder[1](model.encoder[0](changed))
    assert torch.equal(before[..., :8, :8], after[..., :8, :8])
    grid = torch.arange(CODES, dtype=torch.float32).view(1, CODES, 1).expand(1, CODES, 8)
    assert torch.equal(grid.transpose(1, 2).unflatten(2, (4, 4))[0, 0, 1], torch.tensor([4.0, 5, 6, 7]))


def test_export_is_read_back_and_the_coder_is_found_by_its_kind(model, tmp_path):
    model.save_pretrained(tmp_path, {"steps": 3})
    loaded = load_coder(tmp_path)
    assert isinstance(loaded, PixelTokenizer)
    config = dataclasses.asdict(model.config)
    assert module_fingerprint(loaded, config) == module_fingerprint(model, config)
    with pytest.raises(MismatchError, match="pixel_tokenizer"):
        SeedTokenizer.from_pretrained(tmp_path)


def test_pictures_become_values_from_minus_one_to_one():
    picture = Image.fromarray(np.full((10, 20, 3), 255, np.uint8))
    assert torch.equal(as_tensor(picture), torch.ones(3, 64, 64))
    assert as_tensor(Image.new("RGB", (64, 64))).max() == -1
