"""From a recipe to merged layers and files."""
