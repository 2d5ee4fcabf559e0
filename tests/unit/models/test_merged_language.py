"""A merged folder read again says what the adapter on its base says; a folder that is not whole is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seed_dist.errors import ConfigError, DataError, MismatchError
from seed_dist.models.generation import Decoding
from seed_dist.models.image_language import ImageLanguage
from seed_dist.models.language_folder import open_language
from seed_dist.models.merged_language import MergedLanguageModel, save_merged
from tests.languages import CODES, FAMILIES, QUERIES, SPARE, VARIANTS, language_model, save_language

CAPTIONS = ["a red heart above a blue star", "a moon", "zebra <img> of <img_00003><unused_00001></img>"]
Pair = tuple[ImageLanguage, ImageLanguage, Path]


@pytest.fixture(scope="module", params=[(family, variant) for family in FAMILIES for variant in VARIANTS])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Adapter on its base, the same merged, and the folder of both: export and merged. Codes are written shuffled."""
    family, variant = request.param
    folder = tmp_path_factory.mktemp(f"{family}-{variant}")
    model = language_model(save_language(folder / "base", family), family, variant, code_order="permuted")
    model.save_pretrained(folder / "export", {})
    save_merged(folder / "export", folder / "merged")
    return open_language(folder / "export"), open_language(folder / "merged"), folder


def test_ids_are_the_same(pair: Pair) -> None:
    adapter, merged, _ = pair
    assert isinstance(merged, MergedLanguageModel)
    assert merged.code_order == adapter.code_order == "permuted"
    names = ("first_code", "begin_image", "end_image", "codes", "positions", "start_token", "word_count")
    assert [getattr(merged, name) for name in names] == [getattr(adapter, name) for name in names]
    assert adapter.first_code - adapter.word_count in SPARE.values()
    for caption in CAPTIONS[:2]:
        assert merged.words(caption) == adapter.words(caption)
    assert merged.image([5, 0, 11]) == adapter.image([5, 0, 11])
    everything = list(range(adapter.end_image + 1))
    assert merged.text(everything) == adapter.text(everything)


def test_the_name_of_an_image_token_in_a_text_is_words(pair: Pair) -> None:
    _, merged, _ = pair
    plain = merged.tokenizer.encode(CAPTIONS[2], add_special_tokens=False)
    assert max(plain) >= merged.word_count  # as transformers alone would read it
    assert max(merged.words(CAPTIONS[2])) < merged.word_count


def test_what_is_written_is_the_same(pair: Pair) -> None:
    adapter, merged, _ = pair
    codes = torch.randint(0, CODES, (8, QUERIES), generator=torch.Generator().manual_seed(1))
    said = adapter.generate_captions(codes, 8)
    assert merged.generate_captions(codes, 8) == said
    assert len(set(said)) > 1
    rows = adapter.generate_images(CAPTIONS[:2], QUERIES, force_image=True)
    assert merged.generate_images(CAPTIONS[:2], QUERIES, force_image=True) == rows
    for row in rows:
        assert merged.valid_codes(row, QUERIES) == adapter.valid_codes(row, QUERIES) is not None
    prompt = [adapter.start_token, *adapter.words(CAPTIONS[0])]
    for how in ({"temperature": 0.7, "seed": 4}, {"beams": 3}):
        drawn = Decoding(adapter.end_image, 9, adapter.whole_images(QUERIES), **how)
        assert merged.generate([prompt], drawn) == adapter.generate([prompt], drawn)


def copied(folder: Path, out: Path) -> Path:
    out.mkdir()
    for path in folder.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return out


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[sorted(weights)[-1]]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def changed(name: str, value: object) -> Any:
    def change(folder: Path) -> None:
        said = json.loads((folder / "provenance.json").read_text())
        (folder / "provenance.json").write_text(json.dumps({**said, name: value}))

    return change


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda folder: (folder / "provenance.json").unlink(), DataError, r"holds no provenance.json.*seed_dist.conv"),
        (lambda folder: (folder / "provenance.json").write_text("{"), DataError, "is no JSON object"),
        (lambda folder: (folder / "provenance.json").write_text("[1]"), DataError, "is no JSON object"),
        (lambda folder: (folder / "provenance.json").write_text("{}"), DataError, "does not say first_code, codes of"),
        (changed("codes", CODES + 1), MismatchError, r"size of the vocabulary\).*python -m seed_dist.convert"),
        (changed("first_code", 3), MismatchError, r"id of <img_00000>"),
        (without_a_weight, MismatchError, "1 missing: "),
        (cut, DataError, "cannot be read as a language model of transformers"),
        (lambda folder: (folder / "model.safetensors").unlink(), DataError, "cannot be read as a language model"),
        (lambda folder: (folder / "config.json").write_text("{"), DataError, "config.json is not JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), DataError, "cannot be read as a language model"),
        (lambda folder: (folder / "config.json").unlink(), DataError, "neither an adapter .* nor a merged model"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), DataError, "cannot be read as a language model"),
        (lambda folder: (folder / "tokenizer.json").unlink(), DataError, "cannot be read as a language model"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(
    pair: Pair, tmp_path: Path, damage: Any, error: type[Exception], message: str
) -> None:
    folder = copied(pair[2] / "merged", tmp_path / "copy")
    damage(folder)
    with pytest.raises(error, match=message):
        open_language(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("seed_language_model.json", b"{", "is not JSON"),
        ("seed_language_model.json", b"[]", "holds no object"),
        ("seed_language_model.json", b'{"codes": 12}', "does not say base, first_code"),
        ("rows.safetensors", b"cut", "rows.safetensors cannot be read"),
        ("rows.safetensors", None, "rows.safetensors cannot be read"),
        ("adapter_model.safetensors", b"cut", "the adapter in .* cannot be read"),
        ("adapter_model.safetensors", None, "the adapter in .* cannot be read"),
        ("adapter_config.json", b"{", "the adapter in .* cannot be read"),
        ("adapter_config.json", None, "the adapter in .* cannot be read"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused(
    pair: Pair, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    folder = copied(pair[2] / "export", tmp_path / "copy")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_language(folder)
    assert "Copy the export/ of stage lora again" in str(caught.value)


def test_a_base_for_a_merged_model_is_refused(pair: Pair) -> None:
    with pytest.raises(ConfigError, match="has its base within; leave it away"):
        open_language(pair[2] / "merged", base="somewhere")
