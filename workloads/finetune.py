"""EfficientNet-B7, or another network that knows images already, on a set of images."""

from samkeras.data.backbones import with_backbone
from samkeras.data.imagenet import load_imagenet
from samkeras.experiment.tasks import Supervised
from samkeras.experiment.tasks.classification import accuracy, crossentropy
from samkeras.workload import Workload


def load(config):
    splits = load_imagenet(config.dataset, config.data_dir, config.image_size)
    return with_backbone(splits, config.dataset, config.backbone, config.width_mult)


def build(config, info):
    from samkeras.models.pretrained import build_pretrained

    return build_pretrained(
        info.input_shape,
        info.num_outputs,
        config.backbone,
        pretrained=config.pretrained,
    )


workload = Workload(
    task=Supervised(),
    load=load,
    build=build,
    loss=crossentropy,
    metrics=[accuracy],
    monitor="val_accuracy",
    mode="max",
    version=2,  # what was saved frozen is trained
)
