import re

import embmerge.errors as errors_module
from embmerge.errors import EmbmergeError


def tree(cls=EmbmergeError):
    yield cls
    for below in cls.__subclasses__():
        yield from tree(below)


def test_the_docstring_draws_every_error_with_its_exit_code():
    drawn = dict(re.findall(r"(\w+)\s+(\d+)   ?", errors_module.__doc__))
    ours = {cls.__name__: str(cls.exit_code) for cls in tree() if cls.__module__ == errors_module.__name__}
    assert drawn == ours


def test_an_error_carries_its_hint_apart_from_its_message():
    error = EmbmergeError("what and where", hint="what next")
    assert str(error) == "what and where"
    assert error.hint == "what next"
