"""The recipes that ``facemark-train`` knows by name."""

from facemark_export.training.loop import LoopRecipe
from facemark_export.training.recipes.pipnet import PipnetRecipe
from facemark_export.training.recipes.retinaface_mnet025 import RetinaFaceMnet025

RECIPES: dict[str, tuple[str, LoopRecipe]] = {
    "pipnet_lite0_68": ("PIPNet on EfficientNet-Lite0, 68 landmarks", PipnetRecipe()),
    "pipnet_r18_68": (
        "PIPNet on ResNet-18, 68 landmarks (no ImageNet weights: train longer)",
        PipnetRecipe(architecture="resnet18", imagenet=False, epochs=60),
    ),
    "retinaface_mnet025": ("RetinaFace with MobileNet-0.25, five points", RetinaFaceMnet025()),
}
