"""From encoded images to crops of one size, in TensorFlow."""

import functools
from collections.abc import Callable
from typing import Any

from samkeras.data.resized_crop import NUM_DRAWS, centre_box, is_flipped, random_box

Tensor = Any


@functools.cache  # tracing it takes half a second
def make_renderer(size: int, augment: bool) -> Callable[[Tensor, Tensor, int], Tensor]:
    """A function of an encoded image, its example's index and a seed, both int64, for
    tf.data's map: uint8[size, size, 3].

    JPEG, PNG, BMP and GIF (its first frame) are decoded, grey and CMYK as RGB.

    Args:
        size: height and width of the crops after resizing, in pixels.
        augment: whether to crop and flip at random, as index and seed alone decide, or
            to crop the centre.
    """
    import tensorflow as tf

    xp = tf.experimental.numpy

    def render(encoded: Tensor, index: Tensor, seed: Tensor) -> Tensor:
        if not augment:
            image = _crop(encoded, lambda h, w: centre_box(h, w, size, xp))
            return _resize(image, size)
        draws = tf.random.stateless_uniform([NUM_DRAWS], [seed, index], alg="philox")
        image = _crop(encoded, lambda h, w: random_box(draws, h, w, size, xp))
        image = _resize(image, size)
        return tf.cond(is_flipped(draws), lambda: tf.reverse(image, [1]), lambda: image)

    types = (tf.string, tf.int64, tf.int64)
    signature = [tf.TensorSpec([], dtype) for dtype in types]
    return tf.function(render, input_signature=signature, autograph=False)


def _crop(encoded: Tensor, choose_box: Callable[[Tensor, Tensor], tuple]) -> Tensor:
    """Decodes the part of an image that `choose_box`(height, width) names:
    uint8[height, width, 3]."""
    import tensorflow as tf

    def crop_jpeg():  # decodes the blocks of the part alone
        shape = tf.io.extract_jpeg_shape(encoded)
        box = tf.stack(choose_box(shape[0], shape[1]))
        # As exact as Pillow; the default is hardly faster.
        return tf.io.decode_and_crop_jpeg(
            encoded, box, channels=3, dct_method="INTEGER_ACCURATE"
        )

    def crop_other():
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        shape = tf.shape(image)
        top, left, height, width = choose_box(shape[0], shape[1])
        return image[top : top + height, left : left + width]

    return tf.cond(tf.io.is_jpeg(encoded), crop_jpeg, crop_other)


def _resize(image: Tensor, size: int) -> Tensor:
    """Bicubic, rounded: uint8[size, size, 3]. Not antialiased, as in the pipelines of
    TensorFlow's and Flax's examples: that would make the whole a third slower."""
    import tensorflow as tf

    image = tf.ensure_shape(image, [None, None, 3])
    image = tf.image.resize(image, [size, size], "bicubic")
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
