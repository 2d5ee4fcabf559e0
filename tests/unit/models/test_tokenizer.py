"""Stage 2's model: shapes of all variants, what sees what, and agreement between training and inference."""

from __future__ import annotations

import pytest
import torch

from seed_dist.config import CodebookConfig, QFormerConfig
from seed_dist.errors import ConfigError
from seed_dist.losses import codebook_losses
from seed_dist.models.tokenizer import CODEBOOK_PARAMETER, STATISTICS_PREFIX, MlpHead, SeedQuantizer, first_codes

SIZES = {"size": 20, "width": 6, "decoder_layers": 2, "decoder_heads": 2, "head_layers": 3, "generation_width": 9}
VARIANTS = [
    ({"head": "mlp"}, (4, 9)),
    ({"head": "reverse_qformer"}, (4, 9)),
    ({"head": "reverse_qformer", "head_queries": 7}, (4, 7, 9)),
]


def build(**changes) -> SeedQuantizer:
    torch.manual_seed(0)
    model = SeedQuantizer(CodebookConfig(**{**SIZES, **changes}), queries=5, width=16)
    model.quantizer.embedding.weight.data.normal_(std=0.3)
    return model


def causal() -> torch.Tensor:
    return torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("changes", "shape"), VARIANTS)
def test_training_and_inference_go_through_the_same_numbers(changes, shape):
    model = build(**changes)
    out = model(causal())
    codes = model.codes(causal())
    assert codes.shape == (4, 5)
    assert torch.equal(codes, out.quantized.codes)
    decoded = model.decode(codes)
    assert decoded.shape == out.reconstructed.shape == (4, 5, 16)
    assert torch.equal(model.reconstruct(decoded), out.reconstructed)
    assert torch.equal(model.generation_embedding(decoded), out.generation)
    assert out.generation.shape == shape


@pytest.mark.parametrize(("changes", "shape"), VARIANTS)
def test_every_parameter_learns(changes, shape):
    model = build(**changes)
    codebook_losses(model(causal()), causal(), torch.randn(shape), model.config)["loss"].backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


def test_gradient_passes_the_codes_into_the_encoder_only_straight_through():
    model = build()
    x = causal().requires_grad_()
    model(x).reconstructed.square().sum().backward()
    assert x.grad.abs().max() > 0
    assert model.quantizer.embedding.weight.grad is None


def test_names_for_optimizer_groups_and_exports():
    model = build()
    assert CODEBOOK_PARAMETER in dict(model.named_parameters())
    assert {name for name, _ in model.named_buffers()} == {
        f"{STATISTICS_PREFIX}{name}" for name in ("window", "idle", "steps")
    }


def test_decoders_start_with_zero_positions_and_differ_from_each_other():
    model = build()
    assert model.reconstruction.position.abs().max() == model.image.position.abs().max() == 0
    assert not torch.equal(model.reconstruction.blocks[0].mlp.up.weight, model.image.blocks[0].mlp.up.weight)


@pytest.mark.parametrize(("queries", "per_token"), [(32, 32), (16, 64), (5, 204), (2000, 1)])
def test_mlp_head_joins_about_1024_numbers(queries, per_token):
    head = MlpHead(queries, width=8, generation_width=3)
    assert head.down[4].out_features == per_token
    assert head(torch.randn(2, queries, 8)).shape == (2, 3)


def test_an_mlp_head_with_several_outputs_is_refused():
    with pytest.raises(ConfigError, match="head_queries is 7"):
        build(head="mlp", head_queries=7)


def test_a_reverse_head_takes_the_qformer_sizes_and_dropout():
    qformer = QFormerConfig(queries=5, width=16, mlp_width=40, dropout=0.3)
    head = SeedQuantizer.for_qformer(CodebookConfig(**SIZES), qformer).head
    assert head.encoder.layers[0].query_mlp.up.out_features == 40
    assert head.encoder.dropout.p == 0.3
    assert len(head.encoder.layers) == 3
    assert [layer.cross_attention is not None for layer in head.encoder.layers] == [True, False, True]


def test_half_precision_decides_codes_in_float32():
    model = build().half()
    codes = model.codes(causal().half())
    z = model.encode_vectors(causal().half())
    assert z.dtype == torch.float32
    table = model.quantizer.embedding.weight.double()
    assert torch.equal(codes, (z.double()[:, :, None] - table).square().sum(-1).argmin(-1))


def test_without_prefix_masking_there_is_nothing_more_and_with_it_one_vector():
    """The published model is not even drawn differently: all other weights of both are equal."""
    plain, masked = build(), build(prefix_masking=0.5)
    assert masked.state_dict().keys() - plain.state_dict().keys() == {"absent"}
    assert all(torch.equal(value, masked.state_dict()[name]) for name, value in plain.state_dict().items())
    with pytest.raises(AssertionError):
        plain(causal(), torch.full((4,), 3))


def test_decoders_that_see_all_codes_see_what_they_always_saw():
    model = build(prefix_masking=0.5)
    torch.nn.init.normal_(model.absent)
    every, plain = model(causal(), torch.full((4,), 5)), model(causal())
    assert torch.equal(every.reconstructed, plain.reconstructed)
    assert torch.equal(every.generation, plain.generation)


def test_codes_from_the_cut_on_cannot_be_seen_by_the_decoders():
    model = build(prefix_masking=0.5)
    decoded, kept = torch.randn(4, 5, 16), torch.tensor([1, 2, 4, 5])
    other = decoded.clone()
    for row, first in enumerate(kept.tolist()):
        other[row, first:] = torch.randn(5 - first, 16)
    seen, again = (first_codes(values, kept, model.absent) for values in (decoded, other))
    assert torch.equal(seen, again)
    assert torch.equal(seen[1, :2], decoded[1, :2])
    assert torch.equal(seen[1, 2:], model.absent.expand(3, -1))
    codebook_losses(model(causal(), kept), causal(), torch.randn(4, 9), model.config)["loss"].backward()
    assert model.absent.grad.abs().max() > 0
