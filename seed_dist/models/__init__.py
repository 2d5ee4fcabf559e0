"""Models: plain modules of tensors in, tensors out. No process group, no configuration loader, no files but weights."""

from seed_dist.models import torchvision_guard

torchvision_guard.install()  # before anything below imports open_clip, transformers, peft or diffusers
