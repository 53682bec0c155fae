"""Networks that know images already, with a new last layer to fine-tune them."""

import importlib
import json
import os
import zipfile
from typing import Any

import keras
from keras import layers

from samkeras.backend.insides import have_shapes_alone, list_layers
from samkeras.data.backbones import BACKBONES, ENDING, check_backbone, is_file
from samkeras.errors import InputError
from samkeras.model import SAMModel
from samkeras.models.common import logits

Tensor = Any

RESNET_OFFSETS = (-103.939, -116.779, -123.68)  # as keras' weights have them


@keras.saving.register_keras_serializable(package="samkeras")
class FrozenBatchNorm(layers.BatchNormalization):
    """BatchNorm whose statistics stay as they are, in training too; its scales and
    offsets are trained."""

    keeps_statistics = True

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


def build_pretrained(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    backbone: str,
    *,
    pretrained: bool = True,
) -> SAMModel:
    """A network that was trained before, with a new last layer. Its BatchNorm has the
    statistics of that training throughout; all else is trained.

    Args:
        input_shape: (height, width, 3) of images with pixels from 0 to 255.
        num_outputs: number of classes.
        backbone: one of BACKBONES, of keras.applications with its ImageNet weights,
            which keras keeps in ~/.keras/models or downloads; or the path of a .keras
            file: a model of pixels from 0 to 255 that gives features, as
            `keras.applications.EfficientNetB7(include_top=False).save(path)` writes
            it. Features of [batch, height, width, channel] are averaged over pixels.
        pretrained: whether it has those weights. Default True; False: it starts anew,
            and its BatchNorm too.

    Returns:
        An uncompiled SAMModel with logits as outputs.

    Raises:
        InputError: there is no such network, it takes no such images, or its weights
            can neither be read nor downloaded.
    """
    check_backbone(backbone)
    if input_shape[-1] != 3:
        raise InputError(
            f"--backbone {backbone} needs images of 3 channels. Received: images of "
            f"{input_shape[-1]}"
        )
    inputs = keras.Input(input_shape)
    has_weights = pretrained and not have_shapes_alone()
    if is_file(backbone):
        model = _read(backbone, has_weights)
    else:
        model = _take(backbone, input_shape, has_weights)
    norm = FrozenBatchNorm if pretrained else layers.BatchNormalization
    features, copy = _extend(model, inputs, backbone, norm)
    if has_weights:
        _give(copy, model)
    if len(features.shape) == 4:
        features = layers.GlobalAveragePooling2D(name="pool")(features)
    if len(features.shape) != 2:
        raise InputError(
            f"--backbone {backbone} must give features, [batch, feature]. Received: "
            f"outputs of shape {features.shape}"
        )
    return SAMModel(inputs, logits(features, num_outputs))


def _take(
    backbone: str, input_shape: tuple[int, int, int], has_weights: bool
) -> keras.Model:
    """A network of keras.applications."""
    module, name = BACKBONES[backbone]
    build = getattr(importlib.import_module(f"keras.applications.{module}"), name)
    weights = "imagenet" if has_weights else None
    pixels = keras.Input(input_shape)
    if module == "resnet":  # EfficientNets prepare pixels themselves
        # Blue, green and red, less their means on ImageNet.
        pixels = layers.Rescaling(1.0, RESNET_OFFSETS)(pixels[..., ::-1])
    try:
        return build(include_top=False, weights=weights, input_tensor=pixels)
    except ValueError as error:  # of images that are too small
        raise InputError(f"--backbone {backbone}: {_shorten(error)}") from None
    except Exception as error:
        raise InputError(
            f"--backbone {backbone}: its weights are not in keras' cache and cannot be "
            f"downloaded; without a network, give a FILE{ENDING} ({_shorten(error)})"
        ) from None


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _read(backbone: str, has_weights: bool) -> keras.Model:
    """The model of a .keras file."""
    path = os.path.expanduser(backbone)
    try:
        if not has_weights:
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
            return keras.saving.deserialize_keras_object(config)
        return keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise InputError(
            f"--backbone {backbone} cannot be read: {_shorten(error)}"
        ) from None


def _extend(
    model: keras.Model, inputs: Tensor, backbone: str, norm: Any
) -> tuple[Tensor, keras.Model]:
    """What a copy of a model makes of other inputs, in the policy of now, with another
    class of BatchNorm; and the copy, whose weights are new."""
    if not isinstance(model, keras.Model) or len(model.inputs) != 1:
        raise InputError(f"--backbone {backbone} must be a model of one input")
    expected, shape = model.inputs[0].shape[1:], inputs.shape[1:]
    if len(expected) != len(shape) or any(
        side not in (None, now) for side, now in zip(expected, shape, strict=True)
    ):
        raise InputError(
            f"--backbone {backbone} takes images of shape {expected}, see --image_size."
            f" Received: images of {shape}"
        )
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs)
    # It may be in a list.
    given = keras.tree.pack_sequence_as(model.input, [inputs])

    def renew(layer: Any) -> Any:
        if not isinstance(layer, layers.Layer):
            return layer  # an operation, which has no weights
        config = layer.get_config()
        config.pop("dtype", None)  # that of now
        is_norm = isinstance(layer, layers.BatchNormalization)
        kind: Any = norm if is_norm else type(layer)
        return kind.from_config(config)

    copy = keras.models.clone_model(
        model, input_tensors=given, clone_function=renew, recursive=True
    )
    # An earlier training may have frozen layers; a model on TensorFlow tells them not.
    for layer in list_layers(copy):
        layer.trainable = True
    outputs = keras.tree.flatten(copy.output)
    if len(outputs) > 1:
        raise InputError(f"--backbone {backbone} must be a model of one output")
    return outputs[0], copy


def _give(copy: keras.Model, model: keras.Model) -> None:
    """Gives a copy of a model its weights."""
    copy.set_weights(model.get_weights())
    for layer in list_layers(copy):
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()  # its mean and variance are of these
