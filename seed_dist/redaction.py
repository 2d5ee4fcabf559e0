"""What must not be written down: passwords, tokens and keys in commands, addresses and messages.

Every place that records or logs a text from outside passes it through `redact` first: the command in run.json, the
journal, log lines, what an MLflow client says. A name gives a secret away by one of its words (`--api-key`,
`WANDB_API_KEY`, `?access_token=`), so `text_tokenizer` and `image_tokens` are not secret.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence

HIDDEN = "***"
_SHORTEST = 6  # characters of a value in the environment that is looked for in texts; shorter ones occur by chance
_WORD = r"(?:token|password|passwd|passphrase|secret|credentials?|signature|sig|apikey|api[-_]?key|access[-_]?key)"
_NAME = rf"(?:[A-Za-z0-9]+[-_.])*{_WORD}(?:[-_.][A-Za-z0-9]+)*"
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_PATTERNS = (
    # user and password of an address; the last @ before the path ends them, because passwords may contain one
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s'\"]+@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    # NAME=value, ?name=value, "name": "value"
    (re.compile(rf"((?<![A-Za-z0-9]){_NAME}['\"]?\s?[=:]\s?['\"]?)[^\s'\"&,;]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # --name value
    (re.compile(rf"(--{_NAME}\s+)('[^']*'|[^\s'\"-]\S*)", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    # keys that are known by their form: Hugging Face, GitHub, GitLab, AWS, Databricks, OpenAI
    (
        re.compile(
            r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
            r"|(?:AKIA|ASIA)[A-Z0-9]{16}|dapi[0-9a-f]{32}|sk-[\w-]{20,})"
        ),
        HIDDEN,
    ),
)


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` with every secret replaced by `***`, those that the environment holds under a telling name among them."""
    for name, value in environment.items():
        if len(value) >= _SHORTEST and value in text and _SECRET_NAME.fullmatch(name):
            text = text.replace(value, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_command(words: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """A command as it would be typed, without secrets; the word behind `--NAME-OF-A-SECRET` is one, whatever it is."""
    shown = []
    for before, word in zip(("", *words), words, strict=False):
        is_value = before.startswith("--") and "=" not in before and _SECRET_NAME.fullmatch(before.lstrip("-"))
        shown.append(HIDDEN if is_value else redact(word, environment))
    return shlex.join(shown).replace(f"'{HIDDEN}'", HIDDEN)
