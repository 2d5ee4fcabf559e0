"""Secrets do not get into anything that is written, and what is no secret stays readable."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from seed_dist.obs.journal import JOURNAL, Journal
from seed_dist.obs.log import get_logger
from seed_dist.obs.provenance import attempt
from seed_dist.redaction import redact, redact_command

AT = "@"  # apart, so that no line of this file looks like an address with a password


@pytest.mark.parametrize(
    "text",
    [
        f"https://ann:S3cr3t{AT}mlflow.example.org/path?x=1",
        f"failed for url: http://S3cr3t{AT}127.0.0.1:5000/api/2.0/mlflow/runs/search",
        f"postgresql+psycopg2://ann:S3cr3t{AT}db:5432/mlflow",
        f"https://ann:a{AT}S3cr3t{AT}host",  # a password may contain one
        "https://host/file?X-Amz-Signature=S3cr3t&part=1",
        "GET /get?access_token=S3cr3t HTTP/1.1",
        "MLFLOW_TRACKING_PASSWORD=S3cr3t python -m seed_dist.train",
        "--api-key S3cr3t --steps 3",
        "--set storage.secret_key=S3cr3t",
        '{"password": "S3cr3t", "user": "ann"}',
        "Authorization: Bearer S3cr3tS3cr3t",
        "hf_S3cr3tS3cr3tS3cr3t",
    ],
)
def test_a_secret_is_hidden(text: str) -> None:
    assert "S3cr3t" not in redact(text, {})
    assert "***" in redact(text, {})


@pytest.mark.parametrize(
    "text",
    [
        "python -m seed_dist.train --recipe glyphs --set backbones.text_tokenizer=path/to/tokenizer",
        "--tokenizer runs/demo/codebook/export --set lora.image_tokens=32",
        "sqlite:///runs/demo/codebook/mlflow.db",
        "https://mlflow.example.org:5000/api?experiment=3",
        "mail ann@example.org about step 3: loss 2.5",
        "s3://bucket/features/causal/train",
        "error: 3 of 10 samples differ; max_skipped_in_a_row=5",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text, {}) == text


def test_what_the_environment_keeps_secret_is_hidden_wherever_it_stands() -> None:
    environment = {"SITE_TOKEN": "quietword", "SHORT_TOKEN": "abc", "TOKENIZERS_PARALLELISM": "falsehood"}
    assert redact("abc quietword falsehood", environment) == "abc *** falsehood"


def test_a_command_hides_the_word_behind_a_telling_option() -> None:
    words = ["python", "x.py", "--password", "-odd one", "--steps", "3", f"--to=http://a:b{AT}h", "--token=t t"]
    assert redact_command(words, {}) == f"python x.py --password *** --steps 3 '--to=http://***{AT}h' '--token=*** t'"


def test_nothing_secret_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://ann:S3cr3t{AT}host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another word")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "x", "--mlflow-uri", address])
    journal = Journal(tmp_path / JOURNAL)
    journal.write("start", 0, reason=f"cannot reach {address} by 'another word'", parts=[address], **attempt())
    journal.close()
    get_logger().log(logging.WARNING, "no answer from %s", address)
    written = (tmp_path / JOURNAL).read_text() + capsys.readouterr().err
    assert "S3cr3t" not in written
    assert "another word" not in written
    assert written.count(f"***{AT}host") == 4
    assert json.loads((tmp_path / JOURNAL).read_text())["parts"] == [f"http://***{AT}host:5000"]
