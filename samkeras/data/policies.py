"""The policies that AutoAugment has found (Cubuk et al. 2019), as its authors and Foret
et al. (2021) have them in their code: all 95 of CIFAR-10, which have 20 of the 25 that
the paper prints, and those 25 of SVHN.

A policy is a list of pairs of operations, one of which an image is given; an operation
has a name, a probability and a level from 0 to 10.
"""

Operation = tuple[str, float, int]

_CIFAR = """
Invert 0.1 7 Contrast 0.2 6; Rotate 0.7 2 TranslateX 0.3 9;
Sharpness 0.8 1 Sharpness 0.9 3; ShearY 0.5 8 TranslateY 0.7 9;
AutoContrast 0.5 8 Equalize 0.9 2; Solarize 0.4 5 AutoContrast 0.9 3;
TranslateY 0.9 9 TranslateY 0.7 9; AutoContrast 0.9 2 Solarize 0.8 3;
Equalize 0.8 8 Invert 0.1 3; TranslateY 0.7 9 AutoContrast 0.9 1;
Solarize 0.4 5 AutoContrast 0 2; TranslateY 0.7 9 TranslateY 0.7 9;
AutoContrast 0.9 0 Solarize 0.4 3; Equalize 0.7 5 Invert 0.1 3;
TranslateY 0.7 9 TranslateY 0.7 9; Solarize 0.4 5 AutoContrast 0.9 1;
TranslateY 0.8 9 TranslateY 0.9 9; AutoContrast 0.8 0 TranslateY 0.7 9;
TranslateY 0.2 7 Color 0.9 6; Equalize 0.7 6 Color 0.4 9;
ShearY 0.2 7 Posterize 0.3 7; Color 0.4 3 Brightness 0.6 7;
Sharpness 0.3 9 Brightness 0.7 9; Equalize 0.6 5 Equalize 0.5 1;
Contrast 0.6 7 Sharpness 0.6 5; Brightness 0.3 7 AutoContrast 0.5 8;
AutoContrast 0.9 4 AutoContrast 0.5 6; Solarize 0.3 5 Equalize 0.6 5;
TranslateY 0.2 4 Sharpness 0.3 3; Brightness 0 8 Color 0.8 8;
Solarize 0.2 6 Color 0.8 6; Solarize 0.2 6 AutoContrast 0.8 1;
Solarize 0.4 1 Equalize 0.6 5; Brightness 0 0 Solarize 0.5 2;
AutoContrast 0.9 5 Brightness 0.5 3; Contrast 0.7 5 Brightness 0 2;
Solarize 0.2 8 Solarize 0.1 5; Contrast 0.5 1 TranslateY 0.2 9;
AutoContrast 0.6 5 TranslateY 0 9; AutoContrast 0.9 4 Equalize 0.8 4;
Brightness 0 7 Equalize 0.4 7; Solarize 0.2 5 Equalize 0.7 5;
Equalize 0.6 8 Color 0.6 2; Color 0.3 7 Color 0.2 4;
AutoContrast 0.5 2 Solarize 0.7 2; AutoContrast 0.2 0 Equalize 0.1 0;
ShearY 0.6 5 Equalize 0.6 5; Brightness 0.9 3 AutoContrast 0.4 1;
Equalize 0.8 8 Equalize 0.7 7; Equalize 0.7 7 Solarize 0.5 0;
Equalize 0.8 4 TranslateY 0.8 9; TranslateY 0.8 9 TranslateY 0.6 9;
TranslateY 0.9 0 TranslateY 0.5 9; AutoContrast 0.5 3 Solarize 0.3 4;
Solarize 0.5 3 Equalize 0.4 4; Color 0.7 7 TranslateX 0.5 8;
Equalize 0.3 7 AutoContrast 0.4 8; TranslateY 0.4 3 Sharpness 0.2 6;
Brightness 0.9 6 Color 0.2 8; Solarize 0.5 2 Invert 0 3;
AutoContrast 0.1 5 Brightness 0 0; Cutout 0.2 4 Equalize 0.1 1;
Equalize 0.7 7 AutoContrast 0.6 4; Color 0.1 8 ShearY 0.2 3;
ShearY 0.4 2 Rotate 0.7 0; ShearY 0.1 3 AutoContrast 0.9 5;
TranslateY 0.3 6 Cutout 0.3 3; Equalize 0.5 0 Solarize 0.6 6;
AutoContrast 0.3 5 Rotate 0.2 7; Equalize 0.8 2 Invert 0.4 0;
Equalize 0.9 5 Color 0.7 0; Equalize 0.1 1 ShearY 0.1 3;
AutoContrast 0.7 3 Equalize 0.7 0; Brightness 0.5 1 Contrast 0.1 7;
Contrast 0.1 4 Solarize 0.6 5; Solarize 0.2 3 ShearX 0 0;
TranslateX 0.3 0 TranslateX 0.6 0; Equalize 0.5 9 TranslateY 0.6 7;
ShearX 0.1 0 Sharpness 0.5 1; Equalize 0.8 6 Invert 0.3 6;
AutoContrast 0.3 9 Cutout 0.5 3; ShearX 0.4 4 AutoContrast 0.9 2;
ShearX 0 3 Posterize 0 3; Solarize 0.4 3 Color 0.2 4; Equalize 0.1 4 Equalize 0.7 6;
Equalize 0.3 8 AutoContrast 0.4 3; Solarize 0.6 4 AutoContrast 0.7 6;
AutoContrast 0.2 9 Brightness 0.4 8; Equalize 0.1 0 Equalize 0 6;
Equalize 0.8 4 Equalize 0 4; Equalize 0.5 5 AutoContrast 0.1 2;
Solarize 0.5 5 AutoContrast 0.9 5; AutoContrast 0.6 1 AutoContrast 0.7 8;
Equalize 0.2 0 AutoContrast 0.1 2; Equalize 0.6 9 Equalize 0.4 4
"""
_SVHN = """
ShearX 0.9 4 Invert 0.2 3; ShearY 0.9 8 Invert 0.7 5; Equalize 0.6 5 Solarize 0.6 6;
Invert 0.9 3 Equalize 0.6 3; Equalize 0.6 1 Rotate 0.9 3;
ShearX 0.9 4 AutoContrast 0.8 3; ShearY 0.9 8 Invert 0.4 5;
ShearY 0.9 5 Solarize 0.2 6; Invert 0.9 6 AutoContrast 0.8 1;
Equalize 0.6 3 Rotate 0.9 3; ShearX 0.9 4 Solarize 0.3 3; ShearY 0.8 8 Invert 0.7 4;
Equalize 0.9 5 TranslateY 0.6 6; Invert 0.9 4 Equalize 0.6 7;
Contrast 0.3 3 Rotate 0.8 4; Invert 0.8 5 TranslateY 0 2; ShearY 0.7 6 Solarize 0.4 8;
Invert 0.6 4 Rotate 0.8 4; ShearY 0.3 7 TranslateX 0.9 3; ShearX 0.1 6 Invert 0.6 5;
Solarize 0.7 2 TranslateY 0.6 7; ShearY 0.8 4 Invert 0.8 8;
ShearX 0.7 9 TranslateY 0.8 3; ShearY 0.8 5 AutoContrast 0.7 3;
ShearX 0.7 2 Invert 0.1 5
"""


def _parse(text: str) -> list[tuple[Operation, Operation]]:
    pairs = []
    for pair in text.split(";"):
        name, probability, level, *other = pair.split()
        first = (name, float(probability), int(level))
        name, probability, level = other
        pairs.append((first, (name, float(probability), int(level))))
    return pairs


POLICIES = {"cifar": _parse(_CIFAR), "svhn": _parse(_SVHN)}
