"""The one compiled module; everything else about the build stands in pyproject.toml.

Bounds checks stay on: a wrong index in the sharing kernel must be an exception, not a wrong current.
There is no fallback: where compilation fails, the build fails.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    ext_modules=cythonize(
        [Extension("edge.control.sharing", ["edge/control/sharing.py"], extra_compile_args=["-g0"])],
        compiler_directives={
            "language_level": 3,
            "boundscheck": True,
            "wraparound": False,
            "cdivision": False,
            "annotation_typing": False,
        },
    ),
)
