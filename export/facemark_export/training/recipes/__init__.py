"""The recipes that ``facemark-train`` knows by name."""

from facemark_export.training.loop import LoopRecipe
from facemark_export.training.recipes.mapnet import MapnetRecipe
from facemark_export.training.recipes.pipnet import PUBLISHED, PipnetRecipe
from facemark_export.training.recipes.regression import RegressionRecipe
from facemark_export.training.recipes.retinaface_mnet025 import RetinaFaceMnet025
from facemark_export.training.recipes.self_training import SelfTrainingRecipe

RECIPES: dict[str, tuple[str, LoopRecipe]] = {
    "anisotropic_lite0_68": (
        "Coordinates regressed by EfficientNet-Lite0 with the anisotropic loss, 68 landmarks",
        RegressionRecipe(),
    ),
    "coordnet_r18_68": (
        "CoordNet, PIPNet's baseline, on ResNet-18, 68 landmarks (no ImageNet weights)",
        RegressionRecipe(
            head="coordnet",
            architecture="resnet18",
            imagenet=False,
            epochs=60,
            loss="l1",
            pose_bins=0,
        ),
    ),
    "mapnet_r18_68": (
        "MapNet, PIPNet's heatmap baseline, on ResNet-18, 68 landmarks (no ImageNet weights)",
        MapnetRecipe(architecture="resnet18", imagenet=False, epochs=60),
    ),
    "pipnet_lite0_68": ("PIPNet on EfficientNet-Lite0, 68 landmarks", PipnetRecipe()),
    "pipnet_r18_68": (
        "PIPNet on ResNet-18, 68 landmarks (no ImageNet weights: train longer)",
        PipnetRecipe(architecture="resnet18", imagenet=False, epochs=60),
    ),
    "pipnet_r18_published": ("PIPNet on ResNet-18 with its authors' settings", PUBLISHED),
    "pipnet_stc": (
        "PIPNet with self-training, with curriculum or plain, from --unlabelled faces as well",
        SelfTrainingRecipe(),
    ),
    "retinaface_mnet025": ("RetinaFace with MobileNet-0.25, five points", RetinaFaceMnet025()),
}
