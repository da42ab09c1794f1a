"""Which packages are installed; everything else is said in pyproject.toml.

`passes/` lies beside `onnxslim/` and is installed as `onnxslim.passes`: both roots are searched, so that a new pass is
one new folder and no line here.
"""

from setuptools import find_packages, setup

engine = find_packages(include=["onnxslim", "onnxslim.*"])
passes = [f"onnxslim.{name}" for name in find_packages(include=["passes", "passes.*"])]

setup(packages=engine + passes)
