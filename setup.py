"""Which packages are installed; everything else is said in pyproject.toml.

`passes/` lies beside `onnxslim/` and is installed as `onnxslim.passes`: both roots are searched, so that a new pass is
one new folder and no line here. Folders of data inside passes count as packages, as setuptools wants it.
"""

from setuptools import find_namespace_packages, find_packages, setup

engine = find_packages(include=["onnxslim", "onnxslim.*"])
passes = [
    f"onnxslim.{name}" for name in find_namespace_packages(include=["passes", "passes.*"], exclude=["*.__pycache__"])
]

setup(packages=engine + passes)
