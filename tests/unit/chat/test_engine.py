"""Answers are what the language model itself writes after the same tokens, cut into texts and pictures."""

import pytest
import torch
from PIL import Image

from seed_dist.chat.conversation import TEMPLATES, Conversation, Turn
from seed_dist.chat.engine import Engine, Painting
from seed_dist.chat.manner import Manner
from seed_dist.errors import DataError, MismatchError
from seed_dist.models.generation import Decoding
from seed_dist.models.language import SeedLanguageModel
from seed_dist.models.pretrained import SeedTokenizer
from tests.languages import FAMILIES, POSITIONS
from tests.unit.chat.tiny_models import CODES, QUERIES, workspace


@pytest.fixture(scope="module", params=FAMILIES)
def engine(request, tmp_path_factory):
    work = workspace(tmp_path_factory.mktemp(request.param), request.param, code_order="permuted")
    return Engine.open(work / "lora" / "export", work / "codebook" / "export", {}, 24, Painting(steps=1))


def talk(pictures=()):
    conversation = Conversation(TEMPLATES["plain"])
    return conversation, [conversation.add_picture(codes) for codes in pictures]


def test_words_are_the_models_own_and_hold_no_image(engine):
    conversation, asked = talk([range(QUERIES)])
    answer = engine.answer(conversation, [*asked, "a red star"], Manner(reply="words"))
    model = engine.language
    prompt = [model.start_token, *model.image(range(QUERIES)), *model.words("a red star")]
    decoding = Decoding(model.tokenizer.eos_token_id, 24, model.words_alone())
    (row,) = model.generate([prompt], decoding)
    assert answer.parts == ((model.text(row),) if model.text(row) else ())
    assert max(row) < model.first_code
    (free,) = model.generate([prompt], Decoding(-1, 24, temperature=1.0))
    assert max(free) >= model.first_code  # which the grammar has kept out


def test_a_picture_is_the_one_that_the_model_writes_after_the_caption(engine):
    (row,) = engine.language.generate_images(["a red star"], QUERIES, force_image=True)
    conversation, _ = talk()
    answer = engine.answer(conversation, ["a red star"], Manner(reply="picture"))
    assert answer.parts == (tuple(engine.language.valid_codes(row, QUERIES)),)
    assert answer.notes == ()


def test_what_is_written_freely_is_cut_into_texts_and_whole_pictures(engine):
    """Put together again, the parts are all that was written, less a picture that did not become whole."""
    model = engine.language
    missing = {"a picture", "a cut picture", "text"}
    for seed in range(60):
        conversation, _ = talk()
        manner = Manner(temperature=3.0, seed=seed)
        answer = engine.answer(conversation, ["a"], manner)
        end = model.tokenizer.eos_token_id
        decoding = Decoding(end, 24, model.whole_images(QUERIES), 3.0, 1.0, seed)
        (row,) = model.generate([[model.start_token, *model.words("a")]], decoding)
        begins = [place for place, token in enumerate(row) if token == model.begin_image]
        whole = [row[place : place + QUERIES + 2] for place in begins if len(row) >= place + QUERIES + 2]
        pictures = [part for part in answer.parts if not isinstance(part, str)]
        assert pictures == [tuple(model.valid_codes(image, QUERIES)) for image in whole]
        is_cut = len(begins) > len(whole)
        assert any("not finished" in note for note in answer.notes) == is_cut
        assert any("cut after 24" in note for note in answer.notes) == (row[-1] != end)
        texts = " ".join(part for part in answer.parts if isinstance(part, str))
        assert texts == model.text(row)
        missing -= {kind for kind, met in (("a picture", pictures), ("a cut picture", is_cut), ("text", texts)) if met}
        if not missing:
            return
    raise AssertionError(f"no answer had {missing}")


def test_an_answer_has_room_and_the_person_is_told_what_was_left_out(engine):
    conversation, pictures = talk([range(QUERIES)] * 6)
    conversation.turns += [Turn((picture,), ()) for picture in pictures[:4]]
    answer = engine.answer(conversation, [pictures[4], "a zebra"], Manner(reply="picture", remember=4))
    assert [len(part) for part in answer.parts] == [QUERIES]
    assert answer.notes == ("the language model does not know: zebra", "only 3 of the last 4 turns had room")
    with pytest.raises(DataError, match=f"at most {POSITIONS - QUERIES - 1} fit beside an answer"):
        engine.answer(conversation, pictures, Manner())


def test_codes_go_in_and_out_as_the_tokenizer_has_them(engine):
    pixels = (torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    picture = Image.fromarray(pixels)
    codes = engine.see(picture)
    assert list(codes) == engine.tokenizer.encode(picture)[0].tolist()
    assert engine.language.lora.code_order == "permuted"
    assert engine.paint(codes, 3).tobytes() == engine.tokenizer.paint(list(codes), 3, steps=1)[0].tobytes()
    assert engine.paint(codes, 3).tobytes() != engine.paint(codes, 4).tobytes()


def test_a_tokenizer_of_other_codes_is_refused(work, tmp_path):
    language = SeedLanguageModel.from_export(work / "lora" / "export")
    language.codes = CODES - 1
    with pytest.raises(MismatchError, match=f"tokenizer has is {CODES}, but {CODES - 1} is needed"):
        Engine(language, SeedTokenizer.from_pretrained(work / "codebook" / "export"), 24, Painting())
