"""seed-dist: trains SEED, the discrete image tokenizer that lets a language model see and draw."""

__version__ = "0.1.0"
