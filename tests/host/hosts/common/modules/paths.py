"""Where the double's files are; the driver says so before anything else is imported."""

script_path = data_path = models_path = extensions_dir = extensions_builtin_dir = ""
cloned_extensions: dict[str, str] = {}  # name -> folder, of extensions that are somewhere else
