"""The console command `plan`, started so that nothing waits for the garbage collector."""

import gc


def main() -> None:
    """Run `plan`: imports and a search make many small objects and no cycles, and looking for
    cycles costs a twentieth of the time of either."""
    gc.disable()
    from planner.cli import main as run

    run()
