"""The Causal Q-Former: exact causality for any number of queries, and that the shortcuts it takes change nothing."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from seed_dist.config import BackboneConfig, QFormerConfig
from seed_dist.errors import MismatchError
from seed_dist.models.qformer import CausalQFormer, ReverseQFormer

CONFIG = QFormerConfig(
    queries=32,
    width=16,
    layers=3,
    heads=2,
    mlp_width=24,
    cross_every=2,
    dropout=0.1,
    vision_width=12,
    projection_width=8,
    vocabulary_size=20,
    text_positions=10,
)
COUNTS = (
    1,
    2,
    5,
    31,
    32,
    33,
    77,
    530,
)  # 32 is the only one that the published code handles; 530 exceeds a kernel's block


def build(**changes) -> CausalQFormer:
    """A Q-Former with larger weights than at initialisation, so that every path carries weight."""
    torch.manual_seed(0)
    model = CausalQFormer(replace(CONFIG, **changes)).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def patches(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 6, 12, generator=torch.Generator().manual_seed(1))


@contextmanager
def later_queries_replaced(model: CausalQFormer, position: int):
    before = model.query_tokens.detach().clone()
    model.query_tokens.data[:, position:] = 5 * torch.randn_like(before[:, position:])
    yield
    model.query_tokens.data.copy_(before)


def positions(count: int) -> list[int]:
    return sorted({0, min(1, count - 1), count // 2, count - 1})


def leaks(model: CausalQFormer, dtype: torch.dtype = torch.float32) -> list[int]:
    """Positions j for which changing queries j.. changes any bit of the outputs before j."""
    model = model.to(dtype)
    count, found, effects = model.config.queries, [], 0

    def run() -> torch.Tensor:
        torch.manual_seed(7)  # the same dropout in every run
        return model.embed_image(patches()).detach()

    reference = run()
    assert reference.isfinite().all()
    for position in positions(count):
        with later_queries_replaced(model, position):
            changed = run()
        effects += not torch.equal(changed[:, position:], reference[:, position:])
        if not torch.equal(changed[:, :position], reference[:, :position]):
            found.append(position)
    assert effects == len(positions(count))  # the replacements did something
    assert torch.equal(run(), reference)
    return found


@pytest.mark.parametrize("count", COUNTS)
def test_outputs_do_not_depend_on_later_queries(count):
    assert leaks(build(queries=count)) == []


@pytest.mark.parametrize("count", COUNTS[1:])
def test_the_check_fails_without_causality(count):
    assert leaks(build(queries=count, causal=False)) == [p for p in positions(count) if p > 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_causal_in_other_precisions(dtype):
    assert leaks(build(queries=33), dtype) == []


@pytest.mark.parametrize("count", [5, 32])
def test_causal_while_training_with_dropout(count):
    assert leaks(build(queries=count).train()) == []
    assert leaks(build(queries=count, causal=False).train())


def gradient_reach(model: CausalQFormer) -> torch.Tensor:
    """[outputs, queries]: whether output i has any gradient with respect to query j."""
    outputs = model.embed_image(patches())
    rows = []
    for position in range(model.config.queries):
        (gradient,) = torch.autograd.grad(outputs[:, position].square().sum(), model.query_tokens, retain_graph=True)
        rows.append((gradient[0] != 0).any(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("count", [1, 5, 32, 33])
def test_gradients_are_lower_triangular(count):
    full = torch.ones(count, count, dtype=torch.bool)
    assert torch.equal(gradient_reach(build(queries=count)), full.tril())
    assert torch.equal(gradient_reach(build(queries=count, causal=False)), full)


@pytest.mark.parametrize("count", [5, 32, 33])
def test_a_prefix_of_queries_gives_the_prefix_of_outputs(count):
    @torch.no_grad()
    def differences(causal: bool) -> list[float]:
        model = build(queries=count, causal=causal)
        whole, queries = model.embed_image(patches()), model.query_tokens.detach().clone()
        found = []
        for length in positions(count)[1:]:
            model.query_tokens.data = queries[:, :length]
            found.append(float((model.embed_image(patches()) - whole[:, :length]).abs().max()))
        return found

    assert max(differences(True)) < 1e-5
    assert min(differences(False)) > 1e-3


@pytest.mark.parametrize("changes", [{}, {"layers": 4}, {"causal": False}, {"layers": 1}, {"queries": 1}])
def test_last_only_equals_the_last_of_all(changes):
    model = build(**changes)
    both = [model.embed_image(patches(), last_only=flag) for flag in (False, True)]
    assert both[1].shape == (3, 1, 16)
    torch.testing.assert_close(both[1], both[0][:, -1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.image_feature(both[1]), model.image_feature(both[0]), rtol=1e-5, atol=1e-5)


def test_an_image_alone_and_in_a_batch_gives_the_same():
    model = build()
    together = model.embed_image(patches(9))
    alone = torch.cat([model.embed_image(image[None]) for image in patches(9)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_dropout_differs_between_samples_of_a_batch():
    model = build().train()
    same = patches(1).expand(2, -1, -1)
    assert not torch.equal(*model.embed_image(same))


def test_cached_features_in_half_precision_get_no_gradient_and_give_one_to_the_norm():
    model = build()
    features = patches().half()
    out = model.embed_image(features)
    out.square().sum().backward()
    assert out.dtype == torch.float32
    assert model.ln_vision.weight.grad.abs().min() > 0
    assert model.ln_vision.bias.grad.abs().min() > 0


def test_text_padding_changes_nothing_and_text_is_bidirectional():
    model = build()
    ids = torch.tensor([[2, 5, 6, 3]])
    plain = model.embed_text(ids, torch.ones_like(ids))
    padded_ids = torch.tensor([[2, 5, 6, 3, 9, 9]])
    padded = model.embed_text(padded_ids, torch.tensor([[1, 1, 1, 1, 0, 0]]))
    torch.testing.assert_close(padded[:, :4], plain, rtol=1e-5, atol=1e-5)
    other_end = model.embed_text(torch.tensor([[2, 5, 6, 4]]), torch.ones_like(ids))
    assert (model.text_feature(other_end) - model.text_feature(plain)).abs().max() > 1e-3


def test_features_are_unit_vectors():
    model = build()
    ids = torch.tensor([[2, 5], [2, 7], [2, 8]])
    text = model.text_feature(model.embed_text(ids, torch.ones_like(ids)))
    image = model.image_feature(model.embed_image(patches()))
    assert text.shape == image.shape == (3, 8)
    torch.testing.assert_close(torch.cat([text, image]).norm(dim=-1), torch.ones(6))


def test_without_text_path_only_the_image_path_is_there():
    names = {name for name, _ in CausalQFormer(CONFIG, text_path=False).named_parameters()}
    extra = {name for name, _ in CausalQFormer(CONFIG).named_parameters()} - names
    assert extra
    assert all(any(word in name for word in ("text", "word", "position", "proj", "temperature")) for name in extra)


def test_initialised_as_bert():
    torch.manual_seed(0)
    model = CausalQFormer(replace(CONFIG, width=64, mlp_width=128))
    for name, parameter in model.named_parameters():
        parameter = parameter.detach()
        if parameter.ndim >= 2:
            assert parameter.std() == pytest.approx(0.02, rel=0.2), name
        elif name != "temperature":
            is_gain = name.endswith("weight")  # of a norm: every other one-dimensional parameter is a bias
            assert torch.equal(parameter, torch.full_like(parameter, float(is_gain))), name
    assert model.temperature.item() == pytest.approx(0.07)


def test_training_can_start_from_another_one_that_need_not_be_causal(tmp_path):
    other = build(causal=False)
    other.save_pretrained(tmp_path, BackboneConfig(), {})
    model = CausalQFormer(CONFIG)
    model.start_from(tmp_path)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    assert model.config.causal
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("option", "value"), [("heads", 4), ("queries", 8), ("layers", 2), ("cross_every", 1)])
def test_another_one_of_other_sizes_is_refused_with_both_values(tmp_path, option, value):
    build(**{option: value}).save_pretrained(tmp_path, BackboneConfig(), {})
    with pytest.raises(MismatchError, match=rf"{option} of .* is {value}, but {getattr(CONFIG, option)}.*backbones"):
        CausalQFormer(CONFIG).start_from(tmp_path)


@pytest.mark.parametrize(("queries", "shape"), [(1, (3, 9)), (4, (3, 4, 9))])
def test_reverse_qformer_shapes(queries, shape):
    head = ReverseQFormer(replace(CONFIG, queries=queries, dropout=0.0), generation_width=9)
    assert head(torch.randn(3, 7, 16)).shape == shape
