"""What was computed, as people read it: text, HTML, SVG and tables. See CONTRIBUTING.md."""
