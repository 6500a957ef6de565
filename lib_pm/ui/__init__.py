"""What the user sees in the WebUI, on gradio 3.41 and 4 alike."""
