"""How `recompute.py` calls what is no list of modules."""

NOTHING, AGAIN, FULL = "none", "none again", "full"
