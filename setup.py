"""What pyproject.toml cannot say: an installed samkeras has workloads/ and configs/
within itself."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["samkeras*"]),
        "samkeras.workloads",
        "samkeras.configs",
    ],
    package_dir={"samkeras.workloads": "workloads", "samkeras.configs": "configs"},
    package_data={
        "samkeras": ["py.typed", "*.pyi"],
        "samkeras.configs": ["*.yaml", "figures/*.yaml"],
        "samkeras.experiment.studies": ["*.j2"],
    },
)
