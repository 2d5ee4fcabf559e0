"""A random tokenizer on the embedded CLIP, exported: its codes differ between pictures."""

from dataclasses import replace
from pathlib import Path

import torch

from seed_dist.config import BackboneConfig, CodebookConfig, QFormerConfig
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer

LAYOUT = QFormerConfig(queries=6, width=16, layers=2, heads=2, mlp_width=24, vision_width=400, projection_width=8)
CODEBOOK = CodebookConfig(size=200, width=6, decoder_layers=1, decoder_heads=2, head="mlp", generation_width=12)


def export(folder: Path, vision_width=400, painter="embedded:painter", generation_width=12) -> SeedTokenizer:
    torch.manual_seed(0)
    layout = replace(LAYOUT, vision_width=vision_width)
    codebook = replace(CODEBOOK, generation_width=generation_width)
    qformer = CausalQFormer(layout, text_path=False)
    for parameter in qformer.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    model = SeedTokenizer(qformer, SeedQuantizer.for_qformer(codebook, layout), BackboneConfig(painter=painter))
    with torch.no_grad():
        vectors = model.quantizer.encode_vectors(model.causal_embeddings(torch.randn(300, 16, vision_width)))
    model.quantizer.quantizer.initialise_from(vectors.flatten(0, 1), seed=0)
    model.save_pretrained(folder)
    return model
