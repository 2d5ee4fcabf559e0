"""The embedded default: drawn captioned scenes and the small frozen backbones that read, paint and describe them."""
