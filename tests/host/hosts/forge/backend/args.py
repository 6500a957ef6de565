from typing import Any

dynamic_args: dict[str, Any] = {"online_lora": False}
