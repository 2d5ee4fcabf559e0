"""The language model on both families of bases: what is trained, what a batch is worth, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seed_dist.errors import ConfigError, DataError, MismatchError
from seed_dist.models.documents import IGNORE
from seed_dist.models.language import SeedLanguageModel
from tests.languages import (
    CODES,
    FAMILIES,
    QUERIES,
    VARIANTS,
    codebook,
    language_model,
    lora_options,
    save_language,
)

CAPTIONS = ["a red heart", "a blue star above a green moon on black", "a cyan sun", "a red star left of a blue moon"]
KINDS = [(family, variant) for family in FAMILIES for variant in VARIANTS]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_language(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


def a_batch(model: SeedLanguageModel, captions: list[str] = CAPTIONS) -> dict[str, torch.Tensor]:
    codes = torch.arange(len(captions) * QUERIES).reshape(-1, QUERIES) % CODES
    return model.sequences(captions, codes, torch.arange(len(captions)) % 2 == 1)


@pytest.mark.parametrize(("family", "variant"), KINDS)
def test_image_tokens_and_adapters_learn_and_the_base_stays_bit_for_bit(
    family: str, variant: str, bases: dict[str, Path]
) -> None:
    model = language_model(bases[family], family, variant)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {name for name in before if name.startswith("image_tokens.") or "lora_" in name}
    tables = {"rows", "output_rows"} if family == "llama" else {"rows"}
    if variant == "codebook":
        tables = {"marks", "output_rows", "projection.weight", "projection.bias"}
    assert {name for name in trained if "lora_" not in name} == {f"image_tokens.{name}" for name in tables}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    batch = a_batch(model)
    losses = []
    for _ in range(60):
        loss = model(**batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    frozen = SeedLanguageModel(str(bases[family]), CODES, model.lora, codebook()).model.get_base_model()
    assert torch.equal(model.model.get_base_model().get_input_embeddings().weight, frozen.get_input_embeddings().weight)
    for name, value in model.named_parameters():
        assert (value.grad is not None) == (name in trained), name
        assert torch.equal(value, before[name]) == (name not in trained), name
    if variant == "codebook":
        assert torch.equal(model.image_tokens.codebook, codebook())


@pytest.mark.parametrize(("family", "variant"), KINDS)
def test_a_packed_batch_is_worth_its_documents_one_by_one(family: str, variant: str, bases: dict[str, Path]) -> None:
    model = language_model(bases[family], family, variant, packing=True).double()  # or processors differ in rounding
    batch = a_batch(model)
    assert len(batch["ids"]) < len(CAPTIONS)
    assert batch["ids"].shape[1] <= model.lora.max_tokens
    assert sorted(batch["documents"].unique().tolist()) == [0, 1, 2, 3]
    loss = model(**batch)
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    model.lora = dataclasses.replace(model.lora, packing=False)
    alone = a_batch(model)
    total, tokens = torch.zeros(()), int((alone["labels"] != IGNORE).sum())
    for i in range(len(CAPTIONS)):
        size = int(alone["documents"][i].sum())
        one = {key: value[i : i + 1, :size] for key, value in alone.items()}
        total = total + model(**one) * (one["labels"] != IGNORE).sum() / tokens
    total.backward()
    torch.testing.assert_close(loss, total, rtol=1e-5, atol=0)
    for name, value in model.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(found[name], value.grad, rtol=1e-4, atol=1e-5 * float(value.grad.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_computed_twice_give_the_same_gradients(family: str, bases: dict[str, Path]) -> None:
    """With dropout, whose draws must be the same the second time."""
    gradients = []
    for twice in (False, True):
        model = language_model(bases[family], family, dropout=0.3, gradient_checkpointing=twice).train()
        calls: list[int] = []
        layer = next(module for name, module in model.named_modules() if name.endswith("layers.0.self_attn.q_proj"))
        layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(7)
        model(**a_batch(model)).backward()
        assert len(calls) == 1 + twice
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
    for name, value in gradients[0].items():
        assert torch.equal(value, gradients[1][name]), name


@pytest.mark.parametrize(("family", "variant"), KINDS)
def test_an_export_is_the_model_again(family: str, variant: str, bases: dict[str, Path], tmp_path: Path) -> None:
    model = language_model(bases[family], family, variant)
    model.save_pretrained(tmp_path, {"step": 3})
    again = SeedLanguageModel.from_pretrained(tmp_path, str(bases[family]), CODES, model.lora)
    batch = a_batch(model)
    assert torch.equal(model(**batch), again(**batch))
    other = lora_options(family, "rows" if variant == "codebook" else "codebook")
    with pytest.raises(MismatchError, match=rf"lora\.image_embedding of .* is '{variant}'"):
        SeedLanguageModel.from_pretrained(tmp_path, str(bases[family]), CODES, other)
    shuffled = lora_options(family, variant, code_order="permuted")
    with pytest.raises(MismatchError, match=r"lora\.code_order of .* is 'causal'"):
        SeedLanguageModel.from_pretrained(tmp_path, str(bases[family]), CODES, shuffled)
    if variant == "rows":  # and with as many rows as before
        with pytest.raises(MismatchError, match=r"rows \(14, \d+\) instead of \(13, \d+\)"):
            SeedLanguageModel.from_pretrained(tmp_path, str(bases[family]), CODES - 1, model.lora)


def test_exports_from_before_there_was_a_choice_still_load(bases: dict[str, Path], tmp_path: Path) -> None:
    model = language_model(bases["llama"], "llama")
    model.save_pretrained(tmp_path, {})
    description = json.loads((tmp_path / "seed_language_model.json").read_text())
    del description["image_embedding"], description["code_order"]
    (tmp_path / "seed_language_model.json").write_text(json.dumps(description))
    tables = load_file(tmp_path / "rows.safetensors")
    assert tables.keys() == {"rows", "output_rows"}
    again = SeedLanguageModel.from_pretrained(tmp_path, str(bases["llama"]), CODES, model.lora)
    assert torch.equal(again.image_tokens.rows, model.image_tokens.rows)
    shuffled = lora_options("llama", code_order="permuted")  # the recipe alone knows the order of such an export
    assert SeedLanguageModel.from_pretrained(tmp_path, str(bases["llama"]), CODES, shuffled).lora == shuffled
    save_file({"rows": tables["rows"]}, tmp_path / "rows.safetensors")
    with pytest.raises(MismatchError, match="1 missing: output_rows"):
        SeedLanguageModel.from_pretrained(tmp_path, str(bases["llama"]), CODES, model.lora)


@pytest.mark.parametrize(("family", "variant"), KINDS)
def test_new_tokens_start_at_the_scale_of_words(family: str, variant: str, bases: dict[str, Path]) -> None:
    torch.manual_seed(0)
    model = SeedLanguageModel(str(bases[family]), CODES, lora_options(family, variant), codebook())
    if variant == "rows":
        model.image_tokens.start_rows_from(codebook(), seed=0)
    words = model.model.get_base_model().get_input_embeddings().weight.std()
    read = model.image_tokens.read_table()[:CODES]
    assert 0.8 < float((read.std() / words).detach()) < 1.25
    assert float(read.detach().mean(0).abs().max()) < 0.2 * float(words) + 1e-3
    apart = torch.stack([torch.cdist(table, table).flatten() for table in (read.detach(), codebook())])
    assert float(torch.corrcoef(apart)[0, 1]) > 0.8  # similar codes start as similar words


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_in_half_precision_keeps_its_rotary_frequencies(
    family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    model = language_model(bases[family], family, dtype=torch.bfloat16)
    frozen = {p.dtype for name, p in model.model.named_parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    assert model.image_tokens.rows.dtype == torch.float32  # until the engine casts it and keeps an fp32 master
    model.save_pretrained(tmp_path, {})
    again = SeedLanguageModel.from_pretrained(tmp_path, str(bases[family]), CODES, model.lora, torch.bfloat16)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert all(b.dtype == torch.float32 for n, b in again.named_buffers() if "inv_freq" in n)
    loss = again(**a_batch(again))
    assert loss.dtype == torch.float32
    exact = SeedLanguageModel.from_pretrained(tmp_path, str(bases[family]), CODES, model.lora)
    torch.testing.assert_close(loss, exact(**a_batch(exact)), rtol=0.03, atol=0)


def rewritten(folder: Path, target: Path, name: str, **changes: Any) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    values = json.loads((target / name).read_text()) | changes
    (target / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return target


def test_a_base_that_does_not_fit_is_refused_with_what_would(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        SeedLanguageModel(str(bases["llama"]), CODES, lora_options("opt"))
    assert "lora.target_modules has out_proj, fc1, fc2, which" in str(caught.value)
    assert "--set lora.target_modules=[down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj]" in str(caught.value)
    endless = rewritten(bases["llama"], tmp_path / "endless", "tokenizer_config.json", eos_token=None)
    with pytest.raises(ConfigError) as caught:
        SeedLanguageModel(str(endless), CODES, lora_options("opt"))
    assert len(caught.value.problems) == 2
    assert "has no end token" in str(caught.value)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bases["llama"])
    tokenizer.add_tokens(["more"])
    larger = rewritten(bases["llama"], tmp_path / "larger", "config.json")
    tokenizer.save_pretrained(larger)
    with pytest.raises(ConfigError, match=f"has {len(tokenizer)} tokens, but the model only {len(tokenizer) - 1} rows"):
        SeedLanguageModel(str(larger), CODES, lora_options("llama"))


def test_special_tokens_of_both_families(bases: dict[str, Path], tmp_path: Path) -> None:
    opt, llama = (language_model(bases[family], family) for family in FAMILIES)
    assert opt.start_token == opt.tokenizer.eos_token_id  # as in OPT: `</s>` begins a document and ends it
    assert llama.start_token == llama.tokenizer.bos_token_id != llama.tokenizer.eos_token_id
    assert llama.tokenizer.pad_token_id is None
    for model in (opt, llama):
        batch = a_batch(model)
        assert (batch["ids"][:, 0] == model.start_token).all()
        assert (batch["labels"][batch["documents"] == 0] == IGNORE).all()
    none = rewritten(bases["llama"], tmp_path / "none", "tokenizer_config.json", bos_token=None)
    assert language_model(none, "llama").start_token == llama.tokenizer.eos_token_id
    spare = range(len(opt.tokenizer), opt.first_code)
    assert len(spare) == 7
    assert opt.text([*opt.words("a red heart"), *spare, *opt.image([1, 2]), opt.start_token]) == "a red heart"


def test_a_document_longer_than_a_row_is_refused(bases: dict[str, Path]) -> None:
    for packing in (False, True):
        model = language_model(bases["opt"], "opt", packing=packing, max_tokens=16)
        with pytest.raises(DataError, match=r"takes 17 tokens, but lora\.max_tokens is 16"):
            a_batch(model, ["a red star left of a blue moon on black"])
