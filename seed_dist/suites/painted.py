"""The suites of painted pictures, put together from the models that the options name."""

from __future__ import annotations

from functools import lru_cache

from seed_dist.errors import ConfigError, UnavailableError
from seed_dist.models.inception import Inception
from seed_dist.models.judge_weights import ALEXNET, INCEPTION, read_judge_weights
from seed_dist.models.painter import load_painter
from seed_dist.models.perceptual_distance import PerceptualDistance
from seed_dist.suites.caption_conditions import Conditioner, OwnText, WrittenCodes
from seed_dist.suites.generation import GenerationSuite
from seed_dist.suites.models import Models
from seed_dist.suites.painting import Painting
from seed_dist.suites.picture_judges import PictureJudges
from seed_dist.suites.reconstruction import ReconstructionSuite
from seed_dist.suites.selection import Options


def open_reconstruction(models: Models, options: Options) -> ReconstructionSuite:
    return ReconstructionSuite(
        models.tokenizer, _painting(models, options), _judges(models, options), models.tokenizer_hashes()
    )


def open_generation(models: Models, options: Options) -> GenerationSuite:
    """Codes by the language model; where there is none, the painter reads captions itself, if it can."""
    painting, hashes = _painting(models, options), {}
    try:
        hashes = {**models.tokenizer_hashes(), **models.language_hashes()}
        conditioner: Conditioner = WrittenCodes(models.language, models.tokenizer, options.force_image)
    except UnavailableError as error:
        hashes = {}
        try:
            conditioner = OwnText(painting.painter)
        except ConfigError:
            raise error from None
    return GenerationSuite(conditioner, painting, _judges(models, options), hashes)


@lru_cache(maxsize=1)  # both suites paint with one
def _painting(models: Models, options: Options) -> Painting:
    painter = load_painter(models.backbones.painter, models.device)
    return Painting(painter, options.seed, options.steps, options.guidance)


@lru_cache(maxsize=1)
def _judges(models: Models, options: Options) -> PictureJudges:
    inception = lpips = None
    if (path := models.places.inception) is not None:
        inception = Inception(read_judge_weights(path, INCEPTION), options.resize, models.device)
    if (path := models.places.lpips) is not None:
        lpips = PerceptualDistance(read_judge_weights(path, ALEXNET), models.device)
    return PictureJudges(models.judge, inception, lpips)
