"""How the frozen glyph backbones were made. They stand where downloaded weights stand for real users."""

import seed_dist.models  # noqa: F401  (its torchvision guard must run before the modules here import open_clip)
