"""Reconstruction scores, codebook health and the exact causality check, each shown to be able to fail."""

from dataclasses import replace

import pytest
import torch

from seed_dist.config import QFormerConfig
from seed_dist.errors import MismatchError
from seed_dist.eval import causality, codebook, reconstruction
from seed_dist.models.qformer import CausalQFormer

CONFIG = QFormerConfig(
    queries=7,
    width=16,
    layers=3,
    heads=2,
    mlp_width=32,
    cross_every=2,
    vision_width=12,
    projection_width=8,
    vocabulary_size=20,
)


def test_reconstruction_separates_content_from_the_common_direction():
    torch.manual_seed(0)
    mean = torch.full((4, 8), 10.0)
    causal = mean + torch.randn(50, 4, 8)
    perfect = reconstruction.score_reconstruction(causal, causal, mean)
    assert perfect["cosine"] == pytest.approx(1)
    assert perfect["cosine_centered"] == pytest.approx(1)
    assert perfect["last_cosine_centered"] == pytest.approx(1)
    spoilt = torch.cat([causal[:, :-1], torch.randn(50, 1, 8) + mean[-1:]], dim=1)
    last = reconstruction.score_reconstruction(spoilt, causal, mean)
    assert abs(last["last_cosine_centered"]) < 0.2 < last["cosine_centered"]
    unrelated = reconstruction.score_reconstruction(mean + torch.randn(50, 4, 8), causal, mean)
    assert unrelated["cosine"] > 0.97
    assert unrelated["baseline_cosine"] > 0.97
    assert abs(unrelated["cosine_centered"]) < 0.1  # the centred one is not


@pytest.mark.parametrize("shape", [(20, 6), (20, 3, 6)])
def test_generation_cosine_beside_its_baseline(shape):
    torch.manual_seed(0)
    target = torch.randn(shape)
    scores = reconstruction.score_generation(target * 2, target, target.mean(0))
    assert scores["generation_cosine"] == pytest.approx(1)
    assert abs(scores["generation_baseline"]) < 0.5


def test_codebook_usage():
    codes = torch.tensor([[0, 1], [0, 2], [0, 3]])
    scores = codebook.score(codes, size=8)
    assert scores["used_fraction"] == 0.5
    assert scores["counts"] == [3, 1, 1, 1, 0, 0, 0, 0]
    assert scores["position_perplexity"] == pytest.approx([1, 3])
    assert 1 < scores["perplexity"] < 4
    with pytest.raises(MismatchError, match="another codebook"):
        codebook.score(codes, size=3)


def test_causality_is_exact_for_the_causal_model_only():
    torch.manual_seed(0)
    patches = torch.randn(3, 5, 12)
    model = CausalQFormer(CONFIG, text_path=False)
    before = model.query_tokens.detach().clone()
    outcome = causality.check(model, patches, seed=0)
    assert outcome["max_violation"] == 0.0
    assert outcome["min_effect"] > 0
    assert outcome["comparisons"] == 12
    assert torch.equal(model.query_tokens, before)
    bidirectional = CausalQFormer(replace(CONFIG, causal=False), text_path=False)
    assert causality.check(bidirectional, patches, seed=0)["max_violation"] > 0
