import pytest

from seed_dist.chat.conversation import TEMPLATES
from seed_dist.chat.engine import Engine, Painting
from seed_dist.chat.session import Session
from tests.unit.chat.tiny_models import workspace


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    return workspace(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="session")
def engine(work):
    return Engine.open(work / "lora" / "export", work / "codebook" / "export", {}, 24, Painting(steps=1))


@pytest.fixture
def start(engine, tmp_path):
    """Makes sessions that save below `tmp_path`/chat."""
    return lambda: Session(engine, TEMPLATES["plain"], tmp_path / "chat")
