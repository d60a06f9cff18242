"""Explains that an image has another size than its annotations say."""

from difnet.data.errors import DataError
from difnet.data.files.disk import QUARTER_TURNS
from difnet.data.items.item import Picture


def other_size(where: str, size: tuple[int, int], picture: Picture) -> DataError:
    """Return an error that says how annotations and image can be brought together.

    Args:
        where: the file of the annotations, and the place in it.
        size: (height, width) of the image by that file.
        picture: the image.
    """
    if size != picture.size[::-1]:
        remedy = "put the image there that was annotated, or export the annotations again"
    elif picture.orientation in QUARTER_TURNS:
        remedy = (
            "the former is the size of the stored pixels, before the turn by the EXIF tag (Orientation "
            f"{picture.orientation}): if the annotations were drawn on these, remove the tag from the image, "
            "else export them again with the size of the upright image"
        )
    else:
        remedy = (
            "turned by 90 degrees it would fit, so it has probably lost the EXIF tag by which it was turned: "
            "turn the image as it was shown when it was annotated"
        )
    return DataError(
        f"{where} says {size[1]}x{size[0]} pixels, and {picture.path} is {picture.size[1]}x{picture.size[0]} "
        f"(after EXIF rotation); {remedy}"
    )
