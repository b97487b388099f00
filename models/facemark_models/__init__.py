"""The trained models that ship: one folder a model, ``model.onnx`` and its ``CARD.md``.

`facemark_sdk.list_models` finds them with `importlib.resources`.
"""
