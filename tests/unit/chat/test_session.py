"""What may come into a conversation, and what is kept of it."""

import io
import json
import stat

import pytest
from PIL import Image

from seed_dist.chat import session as limits
from seed_dist.chat.manner import Manner
from seed_dist.errors import ConfigError, DataError
from tests.pictures import bomb, odd_pictures, picture
from tests.unit.chat.tiny_models import CODES, QUERIES


def test_pictures_have_the_codes_of_their_files_whatever_their_kind(start, engine):
    session = start()
    for number, (name, data) in enumerate(odd_pictures().items(), 1):
        shown = session.show(data)
        assert (shown.number, list(shown.codes)) == (
            number,
            engine.tokenizer.encode(Image.open(io.BytesIO(data)))[0].tolist(),
        ), name
        assert Image.open(io.BytesIO(shown.given)).format == "PNG"
    wide = session.show(picture(1, size=(2000, 1000)))
    assert Image.open(io.BytesIO(wide.given)).size == (512, 256)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"<svg onload=alert(1)>", "unreadable_image: these bytes are no image"),
        (picture(1)[:80], "unreadable_image"),
        (bomb(), "image_too_large"),
        (bytes(limits.MAX_UPLOAD_BYTES + 1), f"at most {limits.MAX_UPLOAD_BYTES} are allowed"),
    ],
)
def test_what_is_no_usable_picture_changes_nothing(start, data, message):
    session = start()
    before = session.state()
    with pytest.raises(DataError, match=message):
        session.show(data)
    assert session.state() == before


def test_edited_codes_take_the_place_of_the_first_ones_and_wrong_ones_change_nothing(start, engine):
    session = start()
    first = session.show(picture(1)).codes
    for codes, message in (
        ([1] * (QUERIES - 1), f"codes are {QUERIES - 1}; exactly {QUERIES} are needed"),
        ([1, -1, *[1] * (QUERIES - 3), CODES], rf"code 2 is -1; 0 to {CODES - 1} are .*\n.*code {QUERIES} is {CODES};"),
    ):
        with pytest.raises(ConfigError, match=message):
            session.paint(1, codes)
    assert (session.picture(1).codes, session.picture(1).painted) == (first, None)
    edited = [*first[1:], 7]
    shown = session.paint(1, edited, seed=5)
    assert (list(shown.codes), shown.first_codes) == (edited, first)
    painted = Image.open(io.BytesIO(shown.painted))
    assert painted.tobytes() == engine.paint(edited, 5).tobytes()
    turn = session.say([1], Manner(reply="words"))
    other = start()
    other.conversation.add_picture(edited)
    assert turn.answered == other.say([1], Manner(reply="words")).answered


def test_turns_are_bounded_and_errors_leave_the_conversation_as_it_was(start, monkeypatch):
    session = start()
    for parts, message in (
        (["  ", ""], "the turn is empty"),
        (["x" * 4001], "4001 characters; at most 4000"),
        (["a"] * 17, "17 parts; at most 16"),
        ([1], "there is no picture 1; none exists yet"),
        (["a " * 60], "at most 41 fit beside an answer"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            session.say(parts, Manner())
    assert session.state() == {"turns": [], "pictures": []}
    monkeypatch.setattr(limits, "MAX_PICTURES", 1)
    session.show(picture(1))
    for attempt in (lambda: session.show(picture(2)), lambda: session.say(["a"], Manner(reply="picture"))):
        with pytest.raises(DataError, match="0 turns and 1 pictures; at most 100 and 1 are kept"):
            attempt()
    assert len(session.conversation.pictures) == 1


def test_a_saved_conversation_is_whole_private_and_alone_in_the_run_directory(start, tmp_path):
    session = start()
    session.show(picture(1))
    session.say([1, "a <b>"], Manner(reply="words"))
    assert not (tmp_path / "chat").exists()
    session.say(["a red star"], Manner(reply="picture"))
    session.paint(2)
    folder = session.save()
    assert folder == session.save()
    assert folder.parent == tmp_path / "chat"
    assert [path.name for path in tmp_path.iterdir()] == ["chat"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)} == {0o700}
    names = ["conversation.json", "picture-01-given.png", "picture-02-painted.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    saved = json.loads((folder / "conversation.json").read_text())
    assert saved["turns"][0]["asked"] == [{"picture": 1}, {"text": "a <b>"}]
    assert saved["pictures"][1]["codes"] == list(session.picture(2).codes)
    assert saved["models"]["codes"] == CODES
