"""What a language model is given of a conversation, letter by letter."""

import pytest

from seed_dist.chat.conversation import TEMPLATES, Conversation, Turn
from seed_dist.errors import DataError


class Letters:
    """A vocabulary that can be read: letters are themselves, codes stand in brackets."""

    start_token = ord("^")

    def words(self, text):
        return [ord(letter) for letter in text]

    def image(self, codes):
        return [ord(letter) for letter in f"[{' '.join(map(str, codes))}]"]


def prompt(conversation, *asked, longest=None, remember=0):
    ids, remembered = conversation.prompt(asked, Letters(), longest, remember)
    return "".join(map(chr, ids)), remembered


def two_turns(template):
    conversation = Conversation(TEMPLATES[template])
    shown, painted = conversation.add_picture([1, 2], b"file"), conversation.add_picture([3, 4])
    conversation.turns.append(Turn((shown, "what is it?"), ("a star",)))
    conversation.turns.append(Turn(("paint it", "red"), ("like this", painted)))
    return conversation, shown, painted


@pytest.mark.parametrize(
    ("template", "alone", "remembered"),
    [
        ("plain", "^[1 2]a photo of", "^[1 2]what is it? a star paint it red like this[3 4][1 2]a photo of"),
        (
            "question",
            "^[1 2]Question: a photo of Short answer.",
            "^[1 2]Question: what is it? Short answer. a star Question: paint it Short answer. Question: red Short "
            "answer. like this[3 4][1 2]Question: a photo of Short answer.",
        ),
        (
            "vicuna",
            "^USER: [1 2]a photo of\nASSISTANT:",
            "^USER: [1 2]what is it?\nASSISTANT: a star\nUSER: paint it red\nASSISTANT: like this[3 4]\n"
            "USER: [1 2]a photo of\nASSISTANT:",
        ),
    ],
)
def test_templates_and_memory(template, alone, remembered):
    conversation, shown, _ = two_turns(template)
    assert prompt(conversation, shown, "a photo of") == (alone, 0)
    assert prompt(conversation, shown, "a photo of", remember=9) == (remembered, 2)


def test_whole_turns_are_forgotten_first_the_oldest_and_no_image_is_cut():
    conversation, shown, _ = two_turns("plain")
    whole, _ = prompt(conversation, shown, remember=2)
    one, _ = prompt(conversation, shown, remember=1)
    none, _ = prompt(conversation, shown)
    assert none == "^[1 2]"
    assert one == "^paint it red like this[3 4][1 2]"
    found = [prompt(conversation, shown, longest=length, remember=2) for length in range(len(none), len(whole) + 1)]
    assert found == [(none, 0)] * (len(one) - len(none)) + [(one, 1)] * (len(whole) - len(one)) + [(whole, 2)]
    with pytest.raises(DataError, match="takes 6 tokens, but at most 5 fit"):
        prompt(conversation, shown, longest=5)


def test_edited_codes_are_those_that_later_turns_see():
    conversation, shown, _ = two_turns("plain")
    shown.codes = (9, 9)
    assert prompt(conversation, shown, remember=2)[0].count("[9 9]") == 2
    assert shown.first_codes == (1, 2)
