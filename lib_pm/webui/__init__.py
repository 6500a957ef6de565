"""The WebUIs: the only room that imports their modules."""
