"""Painters against diffusers' own pipelines, loaded from folders in the published layouts; promises that all keep."""

import json
import shutil

import numpy as np
import pytest
import torch

from seed_dist.assets import resolve, weights_sha256
from seed_dist.errors import ConfigError, DataError
from seed_dist.models.painter import load_painter
from seed_dist.models.small_painter import build_painter, save_painter
from tests.unit.models.tiny_pipelines import (
    EMBEDDING_WIDTH,
    TEXT_WIDTH,
    TOKENS,
    StableDiffusionPipeline,
    StableUnCLIPImg2ImgPipeline,
    save_stable_diffusion,
    save_stable_unclip,
)

SHAPES = {"small": (EMBEDDING_WIDTH,), "stable_diffusion": (TOKENS, TEXT_WIDTH), "stable_unclip": (EMBEDDING_WIDTH,)}
ROUNDING = 1  # of 255 levels


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("painters")
    torch.manual_seed(0)
    save_painter(folder / "small", build_painter(EMBEDDING_WIDTH))
    save_stable_diffusion(folder / "stable_diffusion")
    save_stable_unclip(folder / "stable_unclip")
    return folder


@pytest.fixture(scope="module")
def painters(folders):
    return {family: load_painter(str(folders / family)) for family in SHAPES}


@pytest.fixture(params=SHAPES)
def family(request):
    return request.param


def embeddings(family, count, seed=1):
    return torch.randn(count, *SHAPES[family], generator=torch.Generator().manual_seed(seed))


def levels(pictures):
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def difference(these, those):
    return np.abs(levels(these) - levels(those)).max()


def generators(seed, count):
    return [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in range(count)]


def test_what_a_painter_says_of_itself(painters, family, folders):
    painter = painters[family]
    assert painter.embedding_shape == SHAPES[family]
    assert painter.reference == str(folders / family)
    assert len({weights_sha256(resolve(other.reference, "painter")) for other in painters.values()}) == 3


def test_a_picture_depends_on_its_embedding_seed_and_place_alone(painters, family):
    paint, given = painters[family].paint, embeddings(family, 10)
    painted = paint(given, seed=5, steps=2)
    assert len({picture.tobytes() for picture in painted}) == 10
    assert [picture.tobytes() for picture in paint(given, seed=5, steps=2)] == [p.tobytes() for p in painted]
    assert difference(paint(given[:3], seed=5, steps=2), painted[:3]) <= ROUNDING
    others = torch.cat([embeddings(family, 9, seed=2), given[9:]])  # the last one in another company
    assert difference(paint(others, seed=5, steps=2)[9:], painted[9:]) <= ROUNDING
    assert difference(paint(given[:3], seed=6, steps=2), painted[:3]) > 10
    same = paint(given[:1].expand(10, *SHAPES[family]), seed=5, steps=2)
    assert difference(same[:1], painted[:1]) <= ROUNDING
    assert len({picture.tobytes() for picture in same}) == 10  # one embedding, ten draws, over blocks too
    assert paint(given[:0]) == []
    own = [5 * 1_000_003 + i for i in range(10)]  # what one seed for all comes to
    assert difference(paint(given, seed=own, steps=2), painted) == 0
    backwards = paint(given.flip(0), seed=own[::-1], steps=2)
    assert difference(backwards[::-1], painted) <= ROUNDING
    with pytest.raises(DataError, match="2 seeds for 10 pictures"):
        paint(given, seed=[1, 2])


def test_defaults_are_those_of_the_publication(painters, family):
    given = embeddings(family, 1)
    steps, guidance = {"small": (20, 2.0), "stable_diffusion": (50, 7.5), "stable_unclip": (20, 10.0)}[family]
    assert difference(painters[family].paint(given), painters[family].paint(given, 0, steps, guidance)) == 0


def test_negatives(painters, family):
    paint, given, away = painters[family].paint, embeddings(family, 3), embeddings(family, 3, seed=2)
    plain, driven = paint(given, 0, 2, 3.0), paint(given, 0, 2, 3.0, away)
    assert difference(plain, driven) > 10
    assert difference(paint(given, 0, 2, 3.0, away[:1])[:1], driven[:1]) <= ROUNDING  # one for all
    as_it_is = paint(given, 0, 2, 1.0)
    assert difference(paint(given, 0, 2, 1.0, away), as_it_is) <= ROUNDING
    assert difference(paint(given, 0, 2, 3.0, given), as_it_is) <= ROUNDING  # away from itself is nowhere
    with pytest.raises(DataError, match="negative embeddings are"):
        paint(given, negative=away[:2])


@pytest.mark.parametrize("negative", [False, True])
def test_stable_diffusion_is_the_pipeline_of_diffusers(painters, folders, negative):
    pipeline = StableDiffusionPipeline.from_pretrained(folders / "stable_diffusion", safety_checker=None)
    given, away = embeddings("stable_diffusion", 3), embeddings("stable_diffusion", 3, seed=2)
    unconditional = {"negative_prompt_embeds": away} if negative else {"negative_prompt": [""] * 3}
    expected = pipeline(
        prompt_embeds=given,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=generators(7, 3),
        **unconditional,
    ).images
    found = painters["stable_diffusion"].paint(given, 7, 4, 3.0, away if negative else None)
    assert difference(found, expected) <= ROUNDING


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_stable_unclip_is_the_pipeline_of_diffusers(painters, folders, guidance):
    pipeline = StableUnCLIPImg2ImgPipeline.from_pretrained(folders / "stable_unclip")
    given = embeddings("stable_unclip", 3)
    expected = pipeline(
        prompt=[""] * 3,
        image_embeds=given,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=generators(7, 3),
    ).images
    assert difference(painters["stable_unclip"].paint(given, 7, 4, guidance), expected) <= ROUNDING


@torch.no_grad()
def test_stable_unclip_is_driven_away_by_the_formula(painters, folders):
    """The two branches computed apart and put together by hand: away + guidance * (given - away)."""
    given, away = embeddings("stable_unclip", 1), embeddings("stable_unclip", 1, seed=2)
    (found,) = painters["stable_unclip"].paint(given, 7, 2, 3.0, away)
    pipe = StableUnCLIPImg2ImgPipeline.from_pretrained(folders / "stable_unclip")
    (generator,) = generators(7, 1)
    noise = torch.randn(1, EMBEDDING_WIDTH, generator=generator)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    text = pipe.encode_prompt("", "cpu", 1, False)[0]
    first, second = (pipe.noise_image_embeddings(e, noise_level=0, noise=noise) for e in (given, away))
    pipe.scheduler.set_timesteps(2)
    for time in pipe.scheduler.timesteps:
        toward, off = (
            pipe.unet(latents, time, encoder_hidden_states=text, class_labels=c).sample for c in (first, second)
        )
        latents = pipe.scheduler.step(off + 3.0 * (toward - off), time, latents).prev_sample
    expected = pipe.image_processor.postprocess(pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample)
    assert difference([found], expected) <= ROUNDING


def test_stable_unclip_with_a_text_prior_paints_the_same(painters, folders, tmp_path):
    save_stable_unclip(tmp_path / "prior", with_prior=True)
    for part in ("unet", "vae", "text_encoder", "image_normalizer"):
        shutil.copytree(folders / "stable_unclip" / part, tmp_path / "prior" / part, dirs_exist_ok=True)
    painter, given = load_painter(str(tmp_path / "prior")), embeddings("stable_unclip", 2)
    assert difference(painter.paint(given, 0, 2), painters["stable_unclip"].paint(given, 0, 2)) == 0


@pytest.mark.parametrize(
    ("family", "unneeded"),
    [
        ("stable_diffusion", ["safety_checker", "feature_extractor"]),
        ("stable_unclip", ["image_encoder", "feature_extractor"]),
    ],
)
def test_parts_that_do_not_paint_are_not_read(folders, tmp_path, family, unneeded):
    shutil.copytree(folders / family, tmp_path / family)
    for part in unneeded:
        shutil.rmtree(tmp_path / family / part)
    assert len(load_painter(str(tmp_path / family)).paint(embeddings(family, 1), steps=1)) == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), ConfigError, "neither model_index.json nor projection/"),
        (lambda f: (f / "model_index.json").write_text("{"), DataError, "does not name a pipeline"),
        (lambda f: (f / "model_index.json").write_text("[]"), DataError, "does not name a pipeline"),
        (lambda f: shutil.rmtree(f / "unet"), DataError, "cannot be read as a StableDiffusionPipeline"),
        (lambda f: weights_of(f).rename(f / "unet" / "diffusion_pytorch_model.bin"), DataError, "safetensors"),
        (lambda f: weights_of(f).write_bytes(b"cut"), DataError, "cannot be read as"),
    ],
)
def test_folders_that_cannot_paint_are_named(folders, tmp_path, change, error, message):
    folder = tmp_path / "broken"
    shutil.copytree(folders / "stable_diffusion", folder)
    change(folder)
    with pytest.raises(error, match=message) as caught:
        load_painter(str(folder))
    assert str(folder) in str(caught.value)


def weights_of(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def test_other_pipelines_are_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ConfigError, match=r"is a FluxPipeline .* StableUnCLIPImg2ImgPipeline"):
        load_painter(str(tmp_path))
