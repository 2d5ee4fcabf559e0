"""Pictures inside the page, as data addresses: small PNGs for small pictures, JPEG thumbnails for large ones."""

from __future__ import annotations

import base64
import io

from PIL import Image

from seed_dist.page.markup import Html, tag

_LONGEST_PX = 192  # thumbnails keep the file small whatever the user's images are
_PNG_UP_TO_PX = 96


def data_address(picture: Image.Image) -> str:
    """`data:image/...;base64,...` of the picture, scaled down to at most 192 pixels a side."""
    small = picture.convert("RGB")
    small.thumbnail((_LONGEST_PX, _LONGEST_PX))
    buffer = io.BytesIO()
    if max(small.size) <= _PNG_UP_TO_PX:
        kind = "png"
        small.save(buffer, "PNG", optimize=True)
    else:
        kind = "jpeg"
        small.save(buffer, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture(image: Image.Image, description: str, class_: str = "picture") -> Html:
    """The picture with `description` for those who cannot see it."""
    return tag("img", src=data_address(image), alt=description, class_=class_, loading="lazy", decoding="async")


def missing_picture(why: str) -> Html:
    """A frame of the same size that says why there is no picture."""
    return tag("div", tag("span", why), class_="picture none", role="img", aria_label=f"no picture: {why}")
