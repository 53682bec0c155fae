"""How Foret et al. (2021) augment images in their code."""

from samkeras.data.augmentation import Chain, CropFlip, Cutout, DeviceTransform
from samkeras.data.autoaugment import AutoAugment
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
            "cutout", that and then a square of the mean colour; or "autoaugment",
            AutoAugment before both, of SVHN without the crops.
        dataset: the data set's name, which decides the colour and the policy.
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
        case "cutout" | "autoaugment":
            means, _ = find_statistics(dataset, channels)
            fill = tuple(255 * mean for mean in means)
            cutout = Cutout(cutout_size, fill, images_per_place)
            if augment == "cutout":
                return Chain((crops, cutout))
            red, green, blue = map(round, fill)
            is_svhn = dataset.startswith("svhn")
            found = AutoAugment("svhn" if is_svhn else "cifar", (red, green, blue))
            return Chain((found, cutout) if is_svhn else (found, crops, cutout))
        case _:
            raise ValueError(
                "augment must be none, basic, cutout or autoaugment. Received: "
                f"{augment}"
            )
