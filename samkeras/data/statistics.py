"""Means and deviations of the channels of known image sets, pixels from 0 to 1."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# As Foret et al. (2021) have them in their code, google-research/sam. That of
# Fashion-MNIST is MNIST's.
_GREY: Statistics = ((0.1307,), (0.3081,))
_CIFAR10: Statistics = (
    (0.49139968, 0.48215841, 0.44653091),
    (0.24703223, 0.24348513, 0.26158784),
)
_KNOWN: dict[str, Statistics] = {
    "cifar10": _CIFAR10,
    "cifar100": (
        (0.50707516, 0.48654887, 0.44091784),
        (0.26733429, 0.25643846, 0.27615047),
    ),
    "svhn_cropped": (
        (0.43090966, 0.4302428, 0.44634357),
        (0.19759192, 0.20029082, 0.19811132),
    ),
}


def find_statistics(name: str, channels: int) -> Statistics:
    """The means and deviations that a set's images are standardized by.

    Args:
        name: the set's, as DataInfo has it, such as cifar100 or keras:cifar100.
        channels: of its images.

    Returns:
        The set's own; CIFAR-10's for other images of three channels, and MNIST's for
        all others.
    """
    if channels != 3:
        return _GREY
    return _KNOWN.get(name.removeprefix("keras:").partition("+")[0], _CIFAR10)
