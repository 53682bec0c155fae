"""How Foret et al. (2021) augment images in their code."""

from samkeras.data.augmentation import Chain, CropFlip, Cutout, DeviceTransform
from samkeras.data.statistics import find_statistics


def build_recipe(
    augment: str,
    dataset: str,
    channels: int,
    cutout_size: int,
    images_per_place: int,
) -> DeviceTransform | None:
    """What images to train on go through.

    Args:
        augment: "none"; "basic", crops of images padded by reflection, mirrored or not;
            or "cutout", that and then a square of the mean colour.
        dataset: the data set's name, which decides that colour.
        channels: of its images.
        cutout_size: side of the square, in pixels.
        images_per_place: images of a batch that have it in one place.

    Raises:
        ValueError: there is no such recipe.
    """
    crops = CropFlip(mode="reflect")
    match augment:
        case "none":
            return None
        case "basic":
            return crops
        case "cutout":
            means, _ = find_statistics(dataset, channels)
            fill = tuple(255 * mean for mean in means)
            return Chain((crops, Cutout(cutout_size, fill, images_per_place)))
        case _:
            raise ValueError(
                f"augment must be none, basic or cutout. Received: {augment}"
            )
