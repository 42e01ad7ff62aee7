"""`plan calibrate`: what a real run measured beside its prediction, and factors for a topology."""
