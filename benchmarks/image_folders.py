"""How long does reading a folder of small images take, beside decoding them alone?

    python benchmarks/image_folders.py
    python benchmarks/image_folders.py --images 5000 --rounds 3

PNG of 32 x 32 pixels in ten folders, in as many threads as there are cores:

    decoding alone    each file opened, decoded by Pillow and forgotten.
    samkeras          what --dataset FOLDER reads: all files listed, their content
                      digested, as of a folder that is new, decoded, checked and put
                      into an array.

`memory` is by how much more memory a process has at most while it reads, as a share of
the images' bytes (Linux).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from harness import make_parser, report, row, time_in_turns

SIZE, NUM_CLASSES = 32, 10
MEASURE = "import sys, image_folders; print(image_folders.measure_memory(sys.argv[1]))"


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__file__, __doc__, rounds=3)
    parser.add_argument("--images", type=int, default=50_000, help="images in all")
    return parser.parse_args()


def write_images(folder: Path, count: int) -> None:
    """Natural-looking images of as many bytes as CIFAR's have as PNG, 2 to 3 kB."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in range(NUM_CLASSES):
        (folder / str(name)).mkdir(parents=True)
    for number in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), "uint8")
        image = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (SIZE, SIZE, 3))
        pixels = (np.asarray(image) + noise).clip(0, 255).astype("uint8")
        path = folder / str(number % NUM_CLASSES) / f"{number:06}.png"
        Image.fromarray(pixels).save(path)


def decode_alone(paths: list[str]) -> None:
    from PIL import Image

    def decode(path: str) -> None:
        with Image.open(path) as image:
            image.load()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = [paths[start : start + 256] for start in range(0, len(paths), 256)]
        list(pool.map(lambda part: [decode(path) for path in part], parts))


def read(folder: Path) -> int:
    """Reads a folder as a run does that is the first to; the images' bytes."""
    from samkeras.data.images import load_images

    with tempfile.TemporaryDirectory() as caches:
        os.environ["XDG_CACHE_HOME"] = caches
        splits = load_images(str(folder), None)
        return splits.train.x.nbytes + splits.validation.x.nbytes


def measure_memory(folder: str) -> float:
    """The most memory that reading takes, over the images' bytes."""
    with tempfile.TemporaryDirectory() as small:
        write_images(Path(small), 100)
        read(Path(small))  # what is imported, and the threads' own
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
    before = find_peak()
    size = read(Path(folder))
    return (find_peak() - before) / size


def find_peak() -> int:
    """The most bytes that this process has had in memory, as Linux says."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return 1024 * int(peak)


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "images")
        write_images(folder, args.images)
        paths = sorted(map(str, folder.glob("*/*.png")))
        turns = {
            "decoding alone": lambda number: decode_alone(paths),
            "samkeras": lambda number: read(folder),
        }
        seconds = time_in_turns(turns, args.rounds)
        rows = [row(seconds, name, "decoding alone") for name in turns]
        found = subprocess.check_output(
            [sys.executable, "-c", MEASURE, str(folder)], cwd=Path(__file__).parent
        )
        rows[1]["memory"] = float(found)
    report(args, rows)


if __name__ == "__main__":
    main()
