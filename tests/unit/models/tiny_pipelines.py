"""Random diffusers pipelines in the folder layouts of Stable Diffusion 1.4 and Stable unCLIP, small ones for tests."""

import seed_dist.models  # noqa: F401 - its torchvision guard lets diffusers and transformers load

# isort: split
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    PNDMScheduler,
    PriorTransformer,
    StableDiffusionPipeline,
    StableUnCLIPImg2ImgPipeline,
    StableUnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

TOKENS, TEXT_WIDTH = 77, 12
EMBEDDING_WIDTH = 14
_TOWER = {"hidden_size": TEXT_WIDTH, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_WORDS = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
_TEXT = {"vocab_size": 3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": TOKENS}
_VISION = {**_TOWER, "image_size": 8, "patch_size": 4}
# Stable Diffusion's own schedule.
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def save_stable_diffusion(folder):
    """As CompVis/stable-diffusion-v1-4 is laid out, safety checker included; pictures of 16 x 16."""
    torch.manual_seed(0)
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config={**_TOWER, **_TEXT}, vision_config=_VISION))
    StableDiffusionPipeline(
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False, **_BETAS),
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(),
        **_denoising(),
    ).save_pretrained(folder)
    return folder


def save_stable_unclip(folder, with_prior=False):
    """As stabilityai/stable-diffusion-2-1-unclip is laid out, or as its sibling that starts from text `with_prior`."""
    torch.manual_seed(0)
    normalizer = StableUnCLIPImageNormalizer(EMBEDDING_WIDTH)
    normalizer.mean.data.normal_(std=0.1)
    normalizer.std.data.uniform_(0.5, 1.5)
    parts = {
        "image_normalizer": normalizer,
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "scheduler": DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **_BETAS),
        **_denoising(class_embed_type="projection", projection_class_embeddings_input_dim=2 * EMBEDDING_WIDTH),
    }
    if with_prior:
        StableUnCLIPPipeline(**parts, **_prior()).save_pretrained(folder)
    else:
        StableUnCLIPImg2ImgPipeline(
            feature_extractor=CLIPImageProcessor(),
            image_encoder=CLIPVisionModelWithProjection(CLIPVisionConfig(**_VISION, projection_dim=EMBEDDING_WIDTH)),
            **parts,
        ).save_pretrained(folder)
    return folder


def _denoising(**more):
    channels = {"block_out_channels": (8, 16), "norm_num_groups": 4}
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
        **channels,
        **more,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        **channels,
    )
    for parameter in unet.parameters():  # what is given shows in what comes out
        parameter.data.mul_(2)
    return {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(CLIPTextConfig(**_TOWER, **_TEXT)), **_tokenizer()}


def _tokenizer(name="tokenizer"):
    return {name: CLIPTokenizer(vocab=_WORDS, merges=[], model_max_length=TOKENS)}


def _prior():
    config = CLIPTextConfig(**_TOWER, **_TEXT, projection_dim=EMBEDDING_WIDTH)
    return {
        "prior_text_encoder": CLIPTextModelWithProjection(config),
        "prior": PriorTransformer(
            num_attention_heads=2, attention_head_dim=6, embedding_dim=EMBEDDING_WIDTH, num_layers=1
        ),
        "prior_scheduler": UnCLIPScheduler(),
        **_tokenizer("prior_tokenizer"),
    }
