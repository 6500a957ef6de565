from typing import Any


def load_model_gpu(model: Any) -> None:
    load_models_gpu([model])


def load_models_gpu(models: list[Any], **kwargs: Any) -> None:
    """Brings models to the device, and only now the patches into their weights."""
    for patcher in models:
        patcher.refresh_loras()
