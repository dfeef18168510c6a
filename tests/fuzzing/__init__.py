"""What tests/fuzz.py is made of: damage, good files, the doors they are carried to, and the limits of a run."""
