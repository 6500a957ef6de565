"""What the tab and the REST interface share."""
