"""The only room that prints: live bars on a terminal, plain lines elsewhere, one JSON document on request.

    with Console.choose(json=json, quiet=quiet, verbose=verbose) as console:
        console.expect(names)            # the clusters that will be asked
        result = sync(..., observer=console)
        console.show(result)
        console.next("invoke merge")

A `Console` is an observer: call it with events, from any thread. rich is imported only on a terminal.
"""

from embmerge.console.console import Console

__all__ = ["Console"]
