"""The console command `plan`, started so that nothing waits for the garbage collector."""

import atexit
import gc


def main() -> None:
    """Run `plan`: imports and a search make many small objects and no cycles, and looking for
    cycles costs a twentieth of the time of either; at its end the interpreter looks once more."""
    gc.disable()
    atexit.register(gc.freeze)
    from planner.cli import main as run

    run()
