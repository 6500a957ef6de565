"""The programs that generate images, one file each. They are imported only here; `jobs` and `core` know none."""
