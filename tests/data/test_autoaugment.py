"""AutoAugment's operations against Pillow's, and its policies' draws."""

import hashlib
import json

import numpy as np
import pytest

from samkeras.backend import backend
from samkeras.data.augmentation import Cutout
from samkeras.data.autoaugment import NAMES, NUMBERS, AutoAugment
from samkeras.data.policies import POLICIES
from samkeras.data.recipes import build_recipe

Image = pytest.importorskip("PIL.Image")
from PIL import ImageEnhance, ImageOps  # noqa: E402

FILL, SIDE = (125, 123, 114), 32
LEVELS = {"Sharpness": (1, 6), "Cutout": (3, 4), "Rotate": (2, 9)}


def make_images() -> np.ndarray:
    """Smooth ones, with some noise: uint8[4, 32, 32, 3]. The last is of one colour."""
    rng = np.random.default_rng(0)
    waves = np.sin(np.arange(SIDE) / rng.uniform(2, 9, (4, 3, 1)))
    images = np.einsum("icx,icy->iyxc", waves, waves) * 70 + 120
    images = images + rng.normal(0, 8, images.shape)
    images[3] = (10, 200, 90)
    return images.clip(0, 255).astype("uint8")


def draw_of(name: str, level: int, sign: int, row: int = 0, column: int = 0) -> list:
    """Of one operation and none after it."""
    return [NUMBERS[name], level, sign, row, column, 0, 0, 0, 0, 0]


def by_pillow(name: str, level: int, sign: int, image: np.ndarray) -> np.ndarray:
    """As AutoAugment's code for CIFAR-10 calls it, what is uncovered filled."""
    picture = Image.fromarray(image)
    signed = -level if sign else level
    factor = level * 1.8 / 10 + 0.1
    shear, pixels, size = signed * 0.03, signed, picture.size
    nearest = {"resample": Image.Resampling.NEAREST, "fillcolor": FILL}

    def transform(*matrix):
        return picture.transform(size, Image.Transform.AFFINE, matrix, **nearest)

    made = {
        "AutoContrast": lambda: ImageOps.autocontrast(picture),
        "Brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
        "Color": lambda: ImageEnhance.Color(picture).enhance(factor),
        "Contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "Equalize": lambda: ImageOps.equalize(picture),
        "Invert": lambda: ImageOps.invert(picture),
        "Posterize": lambda: ImageOps.posterize(picture, 4 - int(level * 4 / 10)),
        "Rotate": lambda: picture.rotate(int(signed * 30 / 10), **nearest),
        "Sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
        "ShearX": lambda: transform(1, shear, 0, 0, 1, 0),
        "ShearY": lambda: transform(1, 0, 0, shear, 1, 0),
        "Solarize": lambda: ImageOps.solarize(picture, 256 - int(level * 25.6)),
        "TranslateX": lambda: transform(1, 0, pixels, 0, 1, 0),
        "TranslateY": lambda: transform(1, 0, 0, 0, 1, pixels),
    }
    return np.asarray(made[name]())


def augment(images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    return np.asarray(AutoAugment("cifar", FILL).apply(images, draws))


def test_operations_are_pillow_s():
    """All, at several levels, in both directions, in one batch: each pixel but for a
    level of rounding; of what moves, but for pixels on the border of two."""
    images, cases = make_images(), []
    for name in NAMES:
        if name != "Cutout":
            levels, signs = LEVELS.get(name, (0, 3, 7, 9)), (0, 1)
            cases += [(name, level, sign) for level in levels for sign in signs]
    batch = np.concatenate([images] * len(cases))
    draws = np.repeat([draw_of(*case) for case in cases], len(images), axis=0)
    found = augment(batch, draws).reshape(len(cases), *images.shape)
    for case, of_case in zip(cases, found, strict=True):
        expected = np.stack([by_pillow(*case, image) for image in images])
        distance = np.abs(of_case.astype(int) - expected).max(axis=-1)
        if case[0] in ("Rotate", "ShearX", "ShearY"):
            assert np.mean(distance > 0) < 0.005, case
        else:
            assert distance.max() <= 1, case
            assert np.mean(distance > 0) < 0.1, case
    assert found.dtype == np.uint8


def test_a_square_is_cut_out_in_an_operation():
    images = np.zeros((1, SIDE, SIDE, 3), "uint8")
    found = augment(images, np.array([draw_of("Cutout", 4, 0, SIDE + 10, 2)]))
    expected = images.copy()
    expected[0, 6:14, :6] = FILL
    np.testing.assert_array_equal(found, expected)


def test_operations_come_one_after_the_other():
    """And none leaves an image as it is, of any size."""
    images = make_images()[:2, :9, :12]
    draws = np.zeros((2, 10), int)
    draws[0] = draw_of("TranslateX", 3, 1)[:5] + draw_of("Invert", 0, 0)[:5]
    found = augment(images, draws)
    np.testing.assert_array_equal(found[1], images[1])
    np.testing.assert_array_equal(found[0, :, 3:], 255 - images[0, :, :-3])
    assert (found[0, :, :3] == 255 - np.array(FILL)).all()


@pytest.mark.one_backend
@pytest.mark.parametrize(("policy", "count"), [("cifar", 95), ("svhn", 25)])
def test_draws_are_of_the_policy(policy, count):
    """Pairs are equally likely, each operation as it says, by the generator alone."""
    pairs, draws = POLICIES[policy], []
    assert len(pairs) == count
    for _ in range(2):
        generator = np.random.default_rng(3)
        draws.append(AutoAugment(policy, FILL).draw(generator, 40_000))
    np.testing.assert_array_equal(*draws)
    numbers = draws[0].reshape(-1, 2, 5)
    assert numbers[..., 0].max() <= len(NAMES)
    assert {*np.unique(numbers[..., 2])} == {0, 1}
    for stage in range(2):
        names = np.array(["none", *NAMES])[numbers[:, stage, 0]]
        for name in NAMES:
            expected = sum(
                p for n, p, _ in (pair[stage] for pair in pairs) if n == name
            )
            assert np.mean(names == name) == pytest.approx(expected / count, abs=0.008)
        for number, level in {(n, lv) for n, lv in numbers[:, stage, :2].tolist() if n}:
            known = {(n, lv) for n, _, lv in (pair[stage] for pair in pairs)}
            assert (NAMES[number - 1], level) in known


def test_a_compiled_step_augments_as_the_host():
    """With the crops and the square after it."""
    chain = build_recipe("autoaugment", "cifar10", 3, 16, 1)
    images = np.concatenate([make_images()] * 16)
    draws = chain.draw(np.random.default_rng(0), len(images)).astype("int32")
    compiled = backend.compile_function(chain.apply_on_device)
    host, device = chain.apply(images, draws), backend.fetch(compiled(images, draws))
    # Another program may round a place to the other side.
    assert np.mean(host != device) < 0.002
    assert host.dtype == device.dtype == np.float32
    plain = build_recipe("cutout", "cifar10", 3, 16, 1).apply(images, draws[:, 10:])
    assert np.mean(host != plain) > 0.2


@pytest.mark.one_backend
def test_digits_are_neither_cropped_nor_mirrored():
    chain = build_recipe("autoaugment", "svhn_cropped+extra", 3, 16, 256)
    assert [type(part) for part in chain.parts] == [AutoAugment, Cutout]
    assert chain.parts[0].policy == "svhn"
    assert chain.parts[0].fill == (110, 110, 114)


@pytest.mark.one_backend
def test_the_policies_are_as_they_were_copied():
    """Checked against the source once: of 120 pairs of numbers nobody sees a slip."""
    assert {name: len(policy) for name, policy in POLICIES.items()} == {
        "cifar": 95,
        "svhn": 25,
    }
    text = json.dumps(POLICIES, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest.startswith("fbf113b4f1bab6d1")
