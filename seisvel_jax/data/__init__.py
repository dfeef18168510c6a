"""Doors of the package: files in their own units and axis orders come in, SI arrays go to the rest."""
