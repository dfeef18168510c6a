"""From a trained run to velocity models in files."""
