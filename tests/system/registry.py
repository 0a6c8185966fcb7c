"""registry — the tests that the files test_*.py announce with @test."""
import os
from dataclasses import dataclass
from typing import Callable

TESTS = {}


@dataclass
class Test:
    """One test and how it wants to be run."""
    name: str
    file: str
    function: Callable
    limit_s: int
    short: bool
    alone: bool


def test(limit_s=60, short=False, alone=False):
    """limit_s: it has hung when it takes longer. short: part of the run under the sanitizers, too.
    alone: measures time or needs the machine for itself."""
    def announce(function):
        file = os.path.basename(function.__code__.co_filename)[:-3].removeprefix("test_")
        assert function.__name__ not in TESTS, f"two tests are called {function.__name__}"
        TESTS[function.__name__] = Test(function.__name__, file, function, limit_s, short, alone)
        return function
    return announce
