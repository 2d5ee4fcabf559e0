"""Suites of painted pictures, end to end on small random models in the real layouts: scenes, codes, painter, CLIP."""

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from seed_dist.errors import ConfigError, DataError
from seed_dist.glyphs.scenes import draw, sample_scene
from seed_dist.metrics.clip_score import paired_cosines
from seed_dist.metrics.frechet import frechet_distance
from seed_dist.metrics.inception_score import inception_score
from seed_dist.metrics.manifold import within
from seed_dist.models.inception import Inception
from seed_dist.models.judge_weights import ALEXNET, INCEPTION, read_judge_weights
from seed_dist.models.painter import load_painter
from seed_dist.models.perceptual_distance import PerceptualDistance
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.small_painter import build_painter, save_painter
from seed_dist.models.vision import FrozenClip
from seed_dist.suites.caption_conditions import OwnText, WrittenCodes
from seed_dist.suites.generation import GenerationSuite
from seed_dist.suites.painting import Painting, noise_picture
from seed_dist.suites.picture_figures import distribution_figures, picture_figures
from seed_dist.suites.picture_judges import PictureJudges, cropped
from seed_dist.suites.picture_records import judged
from seed_dist.suites.reconstruction import ReconstructionSuite
from seed_dist.suites.suite import Record
from seed_dist.testsets.example import Example
from tests.languages import language_model, save_language
from tests.unit.models.judge_files import save_alexnet, save_inception
from tests.unit.models.tiny_pipelines import save_stable_diffusion
from tests.unit.tokenize.tiny_tokenizer import export

WIDTH, COUNT = 12, 11  # of generation embeddings; of examples, no multiple of a block


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("painted")
    torch.manual_seed(0)
    save_painter(folder / "painter", build_painter(WIDTH))
    export(folder / "tokenizer", painter=str(folder / "painter"), generation_width=WIDTH)
    save_language(folder / "language", "opt")
    save_alexnet(folder / "alexnet.pth")
    save_stable_diffusion(folder / "stable_diffusion")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return SeedTokenizer.from_pretrained(folder / "tokenizer")


@pytest.fixture(scope="module")
def painting(folder):
    return Painting(load_painter(str(folder / "painter")), seed=3, steps=2)


@pytest.fixture(scope="module")
def judges(folder):
    lpips = PerceptualDistance(read_judge_weights(folder / "alexnet.pth", ALEXNET))
    return PictureJudges(FrozenClip("embedded:clip"), lpips=lpips)


@pytest.fixture(scope="module")
def examples():
    rng = random.Random(0)
    scenes = [sample_scene(rng, held_out=False) for _ in range(COUNT)]
    pictures = [draw(scene, rng).resize((72 + 8 * i, 64)) for i, scene in enumerate(scenes)]  # not all are square
    return [
        Example(f"scene-{i:03d}", lambda picture=picture: picture, (scene.caption(), "another caption"))
        for i, (scene, picture) in enumerate(zip(scenes, pictures, strict=True))
    ]


def same_bits(one, other):
    assert one.key == other.key
    assert one.fields == other.fields
    assert one.arrays.keys() == other.arrays.keys()
    assert all(one.arrays[name].tobytes() == other.arrays[name].tobytes() for name in one.arrays), one.key


def in_other_batches(suite, examples):
    """Records of the examples backwards, in batches of 1, 3, 5 and what is left; in the set's order."""
    rest, found = list(reversed(examples)), []
    for size in (1, 3, 5, len(examples)):
        found += suite.records(rest[:size])
        rest = rest[size:]
    return list(reversed(found))


def test_reconstruction(tokenizer, painting, judges, examples):
    suite = ReconstructionSuite(tokenizer, painting, judges, {"tokenizer": "t"})
    records = suite.records(examples)
    tokenizer.batch_size = 3
    suite = ReconstructionSuite(tokenizer, painting, judges, {"tokenizer": "t"})
    for one, other in zip(records, in_other_batches(suite, examples), strict=True):
        same_bits(one, other)
    originals = [example.image() for example in examples]
    codes = tokenizer.encode(originals)
    assert [record.fields["codes"] for record in records] == codes.tolist()
    assert len({record.arrays["picture_painted"].tobytes() for record in records}) == COUNT
    figures = {figure.name: figure for figure in suite.score(records, examples)}
    assert list(figures) == [
        "clip_similarity", "clip_score", "clip_score_cosine", "clip_score_of_originals",
        "clip_score_cosine_of_originals", "lpips", "fid_clip", "precision_clip", "recall_clip",
        "fid_clip_of_originals", "precision_clip_of_originals",
    ]  # fmt: skip
    painted = painting(tokenizer.decode_embeddings(codes), [example.key for example in examples])
    clip = FrozenClip("embedded:clip")
    seen = [clip.image_embedding(torch.stack([clip.preprocess(p) for p in ps])).numpy() for ps in (
        painted, [cropped(p, clip.image_size) for p in originals]
    )]  # fmt: skip
    assert figures["clip_similarity"].value == pytest.approx(100 * paired_cosines(*seen).mean(), abs=1e-3)
    own = figures["clip_score_cosine_of_originals"]
    assert own.value > own.control + 5, "the demo's CLIP tells scenes from each other's captions"
    assert figures["clip_score_of_originals"].value == pytest.approx(0.025 * own.value, rel=0.2)
    for name, figure in figures.items():
        halves = {"fid_clip_of_originals": COUNT // 2, "precision_clip_of_originals": COUNT // 2 * 2}
        assert figure.n == halves.get(name, COUNT)
        assert figure.chance is not None
        assert figure.control is not None or name in ("lpips", *halves)
        assert figure.values.mean() == pytest.approx(figure.value)
    assert figures["lpips"].value > 0
    assert figures["lpips"].chance > 0
    assert "11 samples do not span" in figures["fid_clip"].note
    assert suite.protocol["painting"]["steps"] == 2
    assert "6726825d" in suite.not_measured["fid, inception_score"]
    assert suite.models["clip"]["weights_sha256"]
    assert suite.section(records, examples).count("data:image/jpeg") == 2 * COUNT


def test_generation(tokenizer, painting, judges, examples, folder):
    language = language_model(folder / "language", "opt")
    forced = GenerationSuite(WrittenCodes(language, tokenizer, True), painting, judges, {"llm": "l"})
    records = forced.records(examples)
    for one, other in zip(records, in_other_batches(forced, examples), strict=True):
        same_bits(one, other)
    written = language.generate_images([e.captions[0] for e in examples], tokenizer.quantizer.queries, True)
    assert [r.fields["codes"] for r in records] == [language.valid_codes(row, 6) for row in written]
    figures = {figure.name: figure for figure in forced.score(records, examples)}
    assert figures["valid_codes"].value == 1
    assert "lpips" not in figures
    # What is no image leaves no trace in the others, and counts as 0.
    free = GenerationSuite(_EverySecond(forced._conditioner), painting, judges, {"llm": "l"})
    some = free.records(examples)
    for one, whole in zip(some[::2], records[::2], strict=True):
        same_bits(one, whole)
    assert all(not record.fields["valid"] and "picture_painted" not in record.arrays for record in some[1::2])
    halved = {figure.name: figure for figure in free.score(some, examples)}
    assert halved["valid_codes"].value == pytest.approx(6 / 11)
    assert halved["clip_similarity"].values[::2].tolist() == figures["clip_similarity"].values[::2].tolist()
    assert not halved["clip_similarity"].values[1::2].any()
    assert halved["clip_similarity"].note == "5 that were not made count as 0"
    assert halved["fid_clip"].n == 6
    unforced = GenerationSuite(WrittenCodes(language, tokenizer), painting, judges, {"llm": "l"})
    silent = {figure.name: figure.value for figure in unforced.score(unforced.records(examples[:2]), examples[:2])}
    assert silent["valid_codes"] == silent["clip_similarity"] == 0  # an untrained one writes no images
    with pytest.raises(DataError, match="example scene-000 has no caption"):
        free.records([replace(examples[0], captions=())])


def test_figures_by_inception(examples, folder):
    """Here a painted picture is the original upside down. Names say the resize; figures are those of the features."""
    inception = Inception(read_judge_weights(save_inception(folder / "inception.pth"), INCEPTION), "legacy")
    judges = PictureJudges(FrozenClip("embedded:clip"), inception)
    originals = [example.image() for example in examples]
    painted = [picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for picture in originals]
    records = judged(judges, examples, originals, painted)
    figures = {figure.name: figure for figure in picture_figures(records, 0)}
    (real, real_logits), (made, made_logits) = (inception(pictures) for pictures in (originals, painted))
    wanted = {
        "fid_legacy": frechet_distance(real.numpy(), made.numpy()).value,
        "precision_inception_legacy": within(made.numpy(), real.numpy()).mean(),
        "recall_inception_legacy": within(real.numpy(), made.numpy()).mean(),
        "inception_score_legacy": inception_score(made_logits.numpy()),
        "inception_score_legacy_of_originals": inception_score(real_logits.numpy()),
    }
    assert {name: figures[name].value for name in wanted} == pytest.approx(wanted, rel=1e-4)
    noise, noise_logits = inception([noise_picture(e.key, p.size) for e, p in zip(examples, painted, strict=True)])
    by_noise = {name: figures[name].chance for name in list(wanted)[:3]}
    assert by_noise == pytest.approx(
        {
            "fid_legacy": frechet_distance(real.numpy(), noise.numpy()).value,
            "precision_inception_legacy": within(noise.numpy(), real.numpy()).mean(),
            "recall_inception_legacy": within(real.numpy(), noise.numpy()).mean(),
        },
        rel=1e-4,
    )
    assert figures["inception_score_legacy"].control == pytest.approx(inception_score(noise_logits.numpy()), rel=1e-4)
    assert figures["inception_score_legacy"].resampled(np.arange(COUNT)) == figures["inception_score_legacy"].value
    assert list(judges.not_measured) == ["lpips"]


def test_what_stands_beside_figures_of_sets():
    """Flawless pictures of other examples are as far as halves of the originals are from each other, others farther."""
    rng = np.random.default_rng(0)
    real, noise = rng.normal(size=(400, 6)), rng.normal(size=(400, 6)) * 9 + 20

    def beside(painted):
        sets = {"clip.original": real, "clip.painted": painted, "clip.noise": noise}
        records = [Record(str(row), {}, {name: own[row] for name, own in sets.items()}) for row in range(400)]
        figures = distribution_figures(records, np.random.default_rng(1))
        return {figure.name.replace("_clip", ""): figure for figure in figures}

    same, other = beside(real), beside(real + 1.0)
    for figures in (same, other):
        assert figures["fid"].chance == pytest.approx(frechet_distance(real, noise).value)
        assert figures["fid_of_originals"].value == same["fid_of_originals"].value > 0
        assert figures["fid_of_originals"].chance == pytest.approx(figures["fid"].chance, rel=0.1)
        assert (figures["precision"].chance, figures["precision_of_originals"].chance) == (0, 0)
        assert figures["fid_of_originals"].n == 200
    floor = same["fid_of_originals"].value
    assert same["fid"].value == pytest.approx(0, abs=1e-9)
    assert same["fid"].control == pytest.approx(floor, rel=1e-9)
    assert other["fid"].value == pytest.approx(6)
    assert other["fid"].control == pytest.approx(6 + floor, rel=0.2)
    whole = same["precision_of_originals"]
    assert 0.6 < whole.value < same["precision"].value == 1
    assert same["precision"].control == pytest.approx(whole.value)
    assert same["recall"].control == pytest.approx(whole.value)  # both ways: either half within the other
    assert other["precision"].control < whole.value
    names = [f"clip.{whose}" for whose in ("original", "painted", "noise")]
    records = [Record("", {}, dict.fromkeys(names, real[row])) for row in range(7)]
    few = distribution_figures(records, np.random.default_rng(1))  # halves are too small for three neighbours
    assert [(figure.name, figure.control) for figure in few] == [
        ("fid_clip", None), ("precision_clip", None), ("recall_clip", None)
    ]  # fmt: skip


class _EverySecond:
    """A language model that fails at every second caption of a block."""

    def __init__(self, conditioner):
        self._conditioner, self.protocol = conditioner, conditioner.protocol

    def __call__(self, captions):
        made = self._conditioner(captions)
        return replace(made, codes=[own if row % 2 == 0 else None for row, own in enumerate(made.codes)])


def test_a_painter_of_captions(judges, examples, folder, painting):
    """Stable Diffusion reads captions itself: its pictures are those of diffusers' own pipeline."""
    from diffusers import StableDiffusionPipeline

    painter = load_painter(str(folder / "stable_diffusion"))
    own = Painting(painter, seed=1, steps=2, guidance=3.0)
    captions = ["a", "a a", "a a a"]
    few = [replace(example, captions=(text,)) for example, text in zip(examples, captions, strict=False)]
    suite = GenerationSuite(OwnText(painter), own, judges, {})
    records = suite.records(few)
    for one, other in zip(records, [suite.records([example])[0] for example in few], strict=True):
        same_bits(one, other)
    assert records[0].fields == {"valid": True, "codes": []}
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "stable_diffusion", safety_checker=None)
    seeds = [torch.Generator().manual_seed(_seed(1, example.key)) for example in few]
    wanted = pipeline(captions, num_inference_steps=2, guidance_scale=3.0, generator=seeds).images
    found = own(OwnText(painter)(captions).embeddings, [example.key for example in few])
    assert max(np.abs(np.array(a, int) - np.array(b, int)).max() for a, b in zip(found, wanted, strict=True)) <= 1
    with pytest.raises(ConfigError, match=r"paints no captions.*language model"):
        OwnText(painting.painter)


def _seed(seed, key):
    return int(hashlib.sha256(f"{seed} {key}".encode()).hexdigest()[:16], 16) >> 1


def test_what_cannot_be_measured_is_said(tokenizer, painting, judges, examples):
    suite = ReconstructionSuite(tokenizer, painting, judges, {})
    with pytest.raises(DataError, match="example scene-000 has no picture"):
        suite.records([replace(examples[0], image=None)])
    assert not any("caption" in name for name in suite.records([replace(examples[0], captions=())])[0].arrays)


def test_the_crop_is_that_of_clip():
    from transformers import CLIPImageProcessor

    for size in ((100, 64), (64, 131), (33, 40), (224, 227), (224, 224)):
        noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
        theirs = CLIPImageProcessor(do_normalize=False, do_rescale=False)(picture)["pixel_values"][0]
        difference = np.abs(np.array(cropped(picture, 224), int) - np.asarray(theirs, int).transpose(1, 2, 0))
        assert difference.max() <= 3  # it resizes by other arithmetic
