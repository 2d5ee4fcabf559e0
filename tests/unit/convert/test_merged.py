"""Stage 3's adapter as a plain transformers folder: the same ids, the same scores, the same continuations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from seed_dist.cli import run_command
from seed_dist.convert.__main__ import main
from seed_dist.models.generation import Decoding
from tests.languages import CODES, FAMILIES, QUERIES, SPARE, VARIANTS, language_model, save_language

from transformers import AutoModelForCausalLM, AutoTokenizer  # isort: skip  # after seed_dist.models, whose guard these need

KINDS = [(family, variant) for family in FAMILIES for variant in VARIANTS]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_language(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        code = run_command(main)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(("family", "variant"), KINDS)
def test_transformers_alone_says_the_same(
    family: str, variant: str, bases: dict[str, Path], convert: Any, tmp_path: Path
) -> None:
    ours = language_model(bases[family], family, variant)
    ours.save_pretrained(tmp_path / "export", {"step": 3})
    code, out, err = convert(tmp_path / "export", tmp_path / "merged")
    assert code == 0, err
    assert f"{CODES} codes read as {variant}" in out
    assert f"wrote     {tmp_path / 'merged'}: " in out
    plain: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")

    # Ids: those of SEED-LLaMA's names, whatever the base's vocabulary is padded with.
    assert ours.first_code == len(ours.tokenizer) + SPARE[family]
    assert len(tokenizer) == plain.config.vocab_size == ours.first_code + CODES + 2
    image = "<img><img_00004><img_00000><img_00011></img>"
    caption = "a red heart above a blue star"
    ids = tokenizer.encode(f"{image} {caption}", add_special_tokens=False)
    assert ids == [*ours.image([4, 0, 11]), *ours.words(caption)]
    assert tokenizer.decode(ours.image([11]), skip_special_tokens=True).replace(" ", "") == "<img><img_00011></img>"

    batch = torch.tensor([[ours.start_token, *ids], [ours.start_token, *ids[5:], *ids[:5]]])
    with torch.no_grad():
        wanted = ours.logits(ours.hidden(ours.embed(batch)).last_hidden_state)
        found = plain(batch).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert float(wanted.std()) > 0.1
    tied = family == "opt" and variant == "rows"
    assert plain.config.tie_word_embeddings is tied
    assert (plain.get_input_embeddings().weight is plain.get_output_embeddings().weight) is tied

    # transformers' own generation, padded on the left, with our grammar, is what our loop writes.
    prompts = [[ours.start_token, *ids], [ours.start_token, *ours.words("a moon"), ours.begin_image]]
    padded = torch.tensor([prompts[0], [0] * (len(prompts[0]) - len(prompts[1])) + prompts[1]])
    mask = torch.ones_like(padded)
    mask[1, : len(prompts[0]) - len(prompts[1])] = 0
    grammar = ours.whole_images(QUERIES)
    written = plain.generate(
        padded, attention_mask=mask, max_new_tokens=9, do_sample=False, logits_processor=[grammar], eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    assert written[:, padded.shape[1] :].tolist() == ours.generate(prompts, Decoding(-1, 9, grammar))


def test_where_it_came_from_and_in_which_precision(bases: dict[str, Path], convert: Any, tmp_path: Path) -> None:
    ours = language_model(bases["llama"], "llama")
    ours.save_pretrained(tmp_path / "export", {"step": 3, "seed": 5})
    moved = bases["llama"].rename(tmp_path / "moved")
    code, _, err = convert(tmp_path / "export", tmp_path / "merged")
    assert (code, (tmp_path / "merged").exists()) == (2, False)
    assert "is no folder" in err
    base = f"language_model={moved}"
    code, out, err = convert(tmp_path / "export", tmp_path / "merged", "--backbone", base, "--precision", "fp16")
    assert code == 0, err
    assert "float16" in out
    said = json.loads((tmp_path / "merged" / "provenance.json").read_text())
    assert said["step"] == 3
    assert (said["first_code"], said["begin_image"]) == (ours.first_code, ours.begin_image)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert plain.dtype == torch.float16
    code, _, err = convert(tmp_path / "export", tmp_path / "merged")
    assert code == 3
    assert "nothing is overwritten" in err
    moved.rename(bases["llama"])


def test_options_and_bases_that_cannot_be_meant(bases: dict[str, Path], convert: Any, tmp_path: Path) -> None:
    language_model(bases["opt"], "opt").save_pretrained(tmp_path / "export", {})
    (tmp_path / "other").mkdir()
    code, _, err = convert(tmp_path / "other", tmp_path / "x.pt", "--precision", "fp16")
    assert code == 2
    assert "--precision is for merging an adapter" in err
    code, _, err = convert(tmp_path / "export", tmp_path / "merged", "--heads", "2", "--backbone", "painter=x")
    assert code == 2
    assert "--heads is for reading a file" in err
    assert "no backbone but language_model" in err
    tokenizer = AutoTokenizer.from_pretrained(bases["opt"])
    for path in bases["opt"].iterdir():
        (tmp_path / "other" / path.name).write_bytes(path.read_bytes())
    tokenizer.add_tokens(["<img_00003>"])
    tokenizer.save_pretrained(tmp_path / "other")
    base = f"language_model={tmp_path / 'other'}"
    code, _, err = convert(tmp_path / "export", tmp_path / "merged", "--backbone", base)
    assert code == 3, err
    assert "the id" in err
    assert not list(tmp_path.glob("merged*"))
