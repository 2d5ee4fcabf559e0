"""The page in a real browser: a picture is dropped, a question answered, a picture asked for, a code edited."""

import shutil
import threading

import pytest
from PIL import Image

from seed_dist.chat.api import Api
from seed_dist.chat.manner import Manner
from seed_dist.chat.server import ChatServer
from tests.chromium import NEEDED, Chromium
from tests.pictures import picture
from tests.unit.chat.tiny_models import CODES, QUERIES

pytestmark = pytest.mark.skipif(shutil.which(NEEDED) is None, reason="needs chromium")
ATTACK = "<img src=x onerror='document.title=1'>"
DRAWN = """(async () => {
    const image = [...document.querySelectorAll(".model .views img")].pop();
    await image.decode();
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
    canvas.drawImage(image, 0, 0);
    return [...canvas.getImageData(0, 0, image.naturalWidth, image.naturalHeight).data];
})()"""


@pytest.fixture
def browser(start, tmp_path):
    """On the page of a server of its own, as wide as a phone."""
    with ChatServer(Api(start, Manner(seed=3)), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with Chromium(tmp_path / "profile") as browser:
            browser.as_phone(360)
            browser.open(server.url)
            browser.wait("conversation && !busy")
            yield browser
        server.shutdown()
        thread.join()


def drawn(browser):
    """Pixels of the latest painting as the browser shows it, RGB."""
    data = bytes(browser.run(DRAWN))
    return b"".join(data[place : place + 3] for place in range(0, len(data), 4))


def test_a_picture_is_talked_about_painted_and_edited(browser, engine, start, tmp_path):
    alone = start()
    alone.show(picture(1))
    (expected,) = alone.say([1, f"a red star {ATTACK}"], Manner(reply="words", seed=3)).answered
    (tmp_path / "a.png").write_bytes(picture(1))
    browser.drop(tmp_path / "a.png")
    browser.wait("!busy && document.querySelector('#waiting img')?.naturalWidth")
    browser.run("document.querySelector('input[value=words]').click(); say.focus()")
    browser.type(f"a red star {ATTACK}")
    browser.press("Enter", 13)
    browser.wait("!busy && document.querySelector('.model')")
    assert browser.run("document.querySelector('.you .words').textContent") == f"a red star {ATTACK}"
    assert browser.run("document.querySelector('.model .words').textContent") == expected
    assert browser.run("document.querySelectorAll('#waiting li, .model img').length") == 0

    # A picture is asked for: its codes are there, and it is what the painter makes of them.
    browser.run("document.querySelector('input[value=picture]').click(); say.focus()")
    browser.type("a blue moon")
    browser.press("Enter", 13)
    browser.wait("!busy && document.querySelector('.model .views img')")
    codes = browser.run("[...document.querySelectorAll('.model input')].map(input => Number(input.value))")
    assert len(codes) == QUERIES
    assert drawn(browser) == engine.paint(codes, 3).convert("RGB").tobytes()

    # A code out of range is refused where it stands; another one is painted.
    browser.run("document.querySelector('.model input').focus(); document.activeElement.select()")
    browser.type(str(CODES))
    browser.press("Enter", 13)
    said = "document.querySelector('.model .said').textContent"
    assert browser.run(said) == f"code 1 of {QUERIES} is {CODES}; 0 to {CODES - 1} are allowed."
    edited = [(codes[0] + 1) % CODES, *codes[1:]]
    browser.run("document.activeElement.select()")
    browser.type(str(edited[0]))
    assert browser.run("document.querySelector('.model button.main').textContent") == "Paint with 1 changed"
    browser.press("Enter", 13)
    browser.wait("document.querySelector('.model .views img')?.src.endsWith('?2')")
    assert drawn(browser) == engine.paint(edited, 3).convert("RGB").tobytes()

    # After a reload all of it is there again, the edited codes too; it is saved where the command says.
    browser.send("Page.reload")
    browser.wait("document.readyState === 'complete' && document.querySelectorAll('.model').length == 2")
    assert browser.run("[...document.querySelectorAll('.model input')].map(input => Number(input.value))") == edited
    browser.run("find('save').click()")
    browser.wait("find('status').textContent.startsWith('Saved in ')")
    (folder,) = (tmp_path / "chat").iterdir()
    assert Image.open(folder / "picture-02-painted.png").tobytes() == engine.paint(edited, 3).tobytes()
    widths = "[document.documentElement, find('scroller')].map(element => element.scrollWidth)"
    assert max(browser.run(widths)) <= 360
    assert browser.run("document.title") == "Pictures and words"
    assert browser.errors == []


def test_long_names_and_words_stay_within_a_phone(browser, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    browser.drop(tmp_path / "a.png")
    browser.wait("!busy && waiting.length == 1")
    browser.run("say.focus()")
    browser.type("w" * 40)
    browser.press("Enter", 13)
    browser.wait("!busy && document.querySelector('.model')")
    browser.run("""conversation.models.language_model = "/scratch/" + "merged_model_".repeat(20); introduce();
        put("model", [{text: "w".repeat(300)}], [], ["the language model does not know: " + "v".repeat(300)]);
        find("status").textContent = "Saved in /scratch/" + "run_".repeat(60)""")
    assert browser.faults_of_layout() == []
    assert browser.run("find('scroller').scrollWidth") <= 360
    # The panel that was unfolded leaves room to read and to write.
    assert browser.run("find('scroller').clientHeight") > 200


def test_what_goes_wrong_is_said_and_loses_nothing(browser, tmp_path):
    (tmp_path / "a.txt").write_text("no picture")
    browser.drop(tmp_path / "a.txt")
    browser.wait("find('status').className.includes('bad')")
    assert "unreadable_image" in browser.run("find('status').textContent")
    browser.run("say.focus()")
    browser.type("a " * 100)
    browser.press("Enter", 13)
    browser.wait("!busy && find('status').textContent.includes('fit beside an answer')")
    assert browser.run("say.value") == "a " * 100
    assert browser.run("document.querySelectorAll('#log li').length") == 0


def test_everything_can_be_reached_by_keyboard_and_has_a_name(browser, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    browser.drop(tmp_path / "a.png")
    browser.wait("!busy && waiting.length == 1")
    browser.press("Enter", 13)
    browser.wait("!busy && document.querySelector('.model')")
    browser.run("document.querySelector('details').open = true")
    tree = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "spinbutton", "textbox", "radio", "img", "image")
    named = [(node["role"]["value"], node["name"]["value"]) for node in tree
             if not node["ignored"] and node["role"]["value"] in roles]  # fmt: skip
    assert len(named) > QUERIES + 8
    assert [role for role, name in named if not name] == []
    assert ("spinbutton", f"code 1 of {QUERIES}") in named
    reached = set()
    for _ in range(40):
        browser.press("Tab", 9)
        reached.add(browser.run("document.activeElement.textContent || document.activeElement.id"))
    assert {"Paint these codes", "Another try", "Reset", "Talk about it", "Save", "say", "Send"} <= reached
