"""What is written around a picture and a question, by name. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """Words before the picture and after it; `{}` is where the question goes."""

    before: str
    after: str


# SEED-OPT: arXiv 2307.08041, section 4 with Table 3. BLIP-2: arXiv 2301.12597, section 4.1. Chat: the templates of
# SEED-LLaMA's instruction tuning and inference, with the request for a short answer of LLaVA 1.5 (arXiv 2310.03744).
_SHORTLY = "{} Answer the question using a single word or phrase."
PROMPTS = {
    "seed-opt": Prompt("", "Question: {} Short answer."),
    "blip2-opt": Prompt("", "Question: {} Answer:"),
    "vicuna": Prompt("USER: ", f"{_SHORTLY}\nASSISTANT:"),
    "llama2-chat": Prompt("[INST] ", f"{_SHORTLY} [/INST]\n"),
}

# Behind the picture's codes, before the caption. None in our own stage 3; SEED-OPT's: arXiv 2307.08041, section 4.
CAPTION_PROMPTS = {"none": "", "seed-opt": "a photo of"}
