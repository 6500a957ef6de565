"""Run by the WebUI at every start. There is nothing to install: torch, safetensors, gradio and numpy come with it."""
