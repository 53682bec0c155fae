"""How many images a second do Foret et al.'s recipes give, beside the step's need?

    python benchmarks/recipes.py
    python benchmarks/recipes.py --depth 28 --width 1 --batch_size 256

Images of CIFAR-10's size. A step of SAM takes the images of a batch in the time that
`step` says; each recipe of `--augment` is made of as many

    NAME            on the device, compiled, of images that are there.
    NAME, host      on the host in NumPy.

Both draw their random numbers on the host and end with the batch on the device.

`share` is its part of a step's time. What the host makes beside the step before costs
nothing as long as it is below 1 and there are cores for it.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import make_parser, names_of, ratio, report, row, time_in_turns

SHAPE, NUM_CLASSES, SEED = (32, 32, 3), 10, 0
RECIPES = ("basic", "cutout", "autoaugment")


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__file__, __doc__, rounds=5)
    add = parser.add_argument
    recipes = [*RECIPES]
    add("--recipes", type=names_of(RECIPES), default=recipes, help="which of them")
    add("--batch_size", type=int, default=64, help="images of a step")
    add("--depth", type=int, default=16, help="layers of the wide ResNet")
    add("--width", type=float, default=0.1, help="its width_mult: 1 is ten times 16")
    return parser.parse_args()


def make_step(args: argparse.Namespace, images: np.ndarray) -> Callable[[int], object]:
    """A turn of one step of SAM, on images as they are."""
    import keras

    import samkeras
    from samkeras.models.wide_resnet import build_wide_resnet

    keras.utils.set_random_seed(SEED)
    model = build_wide_resnet(SHAPE, NUM_CLASSES, args.width, depth=args.depth)
    model.compile(
        optimizer=samkeras.SGD(0.1, momentum=0.9, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        method=samkeras.SAM(rho=0.05),
    )
    labels = np.arange(len(images)) % NUM_CLASSES
    return lambda _: model.train_on_batch(images, labels)


def make_turns(name: str, images: np.ndarray) -> dict[str, Callable[[int], object]]:
    """A turn of a recipe on the device, and one on the host: a batch each."""
    from keras import ops

    from samkeras.backend import backend
    from samkeras.data.recipes import build_recipe

    recipe: Any = build_recipe(name, "cifar10", SHAPE[-1], 16, len(images))
    generator = np.random.default_rng(SEED)
    apply = backend.compile_function(recipe.apply_on_device)
    # A number of each batch is fetched: the device is waited for.
    last = backend.compile_function(lambda batch: batch[-1, -1, -1, -1])
    placed = ops.convert_to_tensor(images)

    def on_device(_: int) -> None:
        draws = recipe.draw(generator, len(images)).astype("int32")
        draws = ops.convert_to_tensor(draws)
        backend.fetch(last(apply(placed, draws)))

    def on_host(_: int) -> None:
        batch = recipe.apply(images, recipe.draw(generator, len(images)))
        backend.fetch(last(ops.convert_to_tensor(batch)))

    return {name: on_device, f"{name}, host": on_host}


def main() -> None:
    args = parse_arguments()
    rng = np.random.default_rng(SEED)
    images = rng.integers(0, 256, (args.batch_size, *SHAPE)).astype("uint8")
    turns = {"step": make_step(args, images)}
    for name in args.recipes:
        turns |= make_turns(name, images)
    seconds = time_in_turns(turns, args.rounds)
    report(
        args,
        [
            row(
                seconds,
                name,
                "step",
                images_per_second=round(args.batch_size / np.median(seconds[name])),
                share=round(ratio(seconds, name, "step"), 4),
            )
            for name in turns
        ],
    )


if __name__ == "__main__":
    main()
