"""The recipes that ``facemark-train`` knows by name."""

from dataclasses import replace

from facemark_export.training.loop import LoopRecipe
from facemark_export.training.recipes.heatmaps import HeatmapRecipe
from facemark_export.training.recipes.hih import PUBLISHED as HIH_PUBLISHED
from facemark_export.training.recipes.hih import HihRecipe
from facemark_export.training.recipes.mapnet import MapnetRecipe
from facemark_export.training.recipes.pipnet import PUBLISHED, PipnetRecipe
from facemark_export.training.recipes.regression import RegressionRecipe
from facemark_export.training.recipes.retinaface_mnet025 import RetinaFaceMnet025
from facemark_export.training.recipes.self_training import SelfTrainingRecipe
from facemark_export.training.recipes.subpixel import SubpixelRecipe

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
    "hih_base": (
        "HIH with four hourglasses and its authors' settings, WFLW's 98 landmarks",
        replace(HIH_PUBLISHED, architecture="hourglass4"),
    ),
    "hih_lite0_68": (
        "HIH's maps on EfficientNet-Lite0 at 128 pixels, for two CPU cores, 68 landmarks",
        HihRecipe(size=128),
    ),
    "hih_small": (
        "HIH with two hourglasses and its authors' settings, WFLW's 98 landmarks",
        replace(HIH_PUBLISHED, architecture="hourglass2"),
    ),
    "hih_tiny": (
        "HIH with one hourglass and its authors' settings, WFLW's 98 landmarks",
        HIH_PUBLISHED,
    ),
    "hrnet_w18_wasserstein": (
        "HRNetV2-W18 with the 2D Wasserstein loss, sigma 3, read by barycentres, 68 landmarks",
        HeatmapRecipe(epochs=60, batch_size=16),
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
    "subpixel_hourglass2_68": (
        "Subpixel heatmap regression by two hourglasses with its authors' settings, 68 landmarks",
        SubpixelRecipe(),
    ),
    "subpixel_lite0_68": (
        "Subpixel heatmap regression on EfficientNet-Lite0 at 128 pixels, for two CPU cores",
        SubpixelRecipe(
            family="mapnet",
            architecture="efficientnet_lite0",
            imagenet=True,
            size=128,
            epochs=20,
            batch_size=16,
            optimizer="adamw",
            learning_rate=7e-4,
            schedule="cosine",
            milestones=(),
            weight_decay=0.01,
            warmup_epochs=0.5,
            ema_decay=0.998,
        ),
    ),
    "wasserstein_lite0_68": (
        "The 2D Wasserstein loss on EfficientNet-Lite0 at 128 pixels, for two CPU cores",
        HeatmapRecipe(
            family="mapnet",
            architecture="efficientnet_lite0",
            imagenet=True,
            size=128,
            epochs=20,
            batch_size=16,
            sigma=1.5,
        ),
    ),
    "retinaface_mnet025": ("RetinaFace with MobileNet-0.25, five points", RetinaFaceMnet025()),
}
