"""Plain arithmetic of the networks, written from COMPAT's words, for tests to compare with.

Each function knows its network only by the state_dict: names, shapes and the formulas of COMPAT
1.1, 2.1, 3.1 and 5.2. It takes the tensors `w` by name and images `x`, and gives a list of outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def conv(w, name, x, stride=1):
    """Padded by half the kernel; depthwise where there is one input channel a kernel."""
    weight = w[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    padding = weight.shape[2] // 2
    return F.conv2d(x, weight, w.get(f"{name}.bias"), stride, padding, groups=groups)


def norm(w, name, x):
    weight, bias, mean, var = (
        w[f"{name}.{part}"][:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def resnet_block(w, name, x, stride):
    """A basic block or, where there is a third convolution, a bottleneck."""
    deep = f"{name}.conv3.weight" in w
    y = F.relu(norm(w, f"{name}.bn1", conv(w, f"{name}.conv1", x, 1 if deep else stride)))
    y = norm(w, f"{name}.bn2", conv(w, f"{name}.conv2", y, stride if deep else 1))
    if deep:
        y = norm(w, f"{name}.bn3", conv(w, f"{name}.conv3", F.relu(y)))
    if f"{name}.downsample.0.weight" in w:
        x = norm(w, f"{name}.downsample.1", conv(w, f"{name}.downsample.0", x, stride))
    return F.relu(x + y)


def resnet_layers(w, x, prefix=""):
    x = F.relu(norm(w, f"{prefix}bn1", conv(w, f"{prefix}conv1", x, 2)))
    x = F.max_pool2d(x, 3, 2, 1)
    layers = []
    for layer in (1, 2, 3, 4):
        block = 0
        while f"{prefix}layer{layer}.{block}.conv1.weight" in w:
            stride = 2 if layer > 1 and block == 0 else 1
            x = resnet_block(w, f"{prefix}layer{layer}.{block}", x, stride)
            block += 1
        layers.append(x)
    return layers


def pip_heads(w, x):
    return [
        conv(w, name, x) for name in ("cls_layer", "x_layer", "y_layer", "nb_x_layer", "nb_y_layer")
    ]


def resnet_pipnet(w, x):
    x = resnet_layers(w, x)[-1]
    if "deconv1.weight" in w:
        x = F.conv_transpose2d(x, w["deconv1.weight"], None, stride=2, padding=1)
        x = F.relu(norm(w, "bn_deconv1", x))
    for extra in "56":
        if f"layer{extra}.weight" in w:
            x = F.relu(norm(w, f"bn{extra}", conv(w, f"layer{extra}", x, 2)))
    return pip_heads(w, x)


def mobilenet_v2_pipnet(w, x):
    x = F.relu6(norm(w, "features.0.1", conv(w, "features.0.0", x, 2)))
    for i in range(1, 18):
        name, y = f"features.{i}.conv", x
        stride = 2 if i in (2, 4, 7, 14) else 1
        if i > 1:
            y = F.relu6(norm(w, f"{name}.0.1", conv(w, f"{name}.0.0", y)))
        depthwise, last = (f"{name}.0", 1) if i == 1 else (f"{name}.1", 2)
        y = F.relu6(norm(w, f"{depthwise}.1", conv(w, f"{depthwise}.0", y, stride)))
        y = norm(w, f"{name}.{last + 1}", conv(w, f"{name}.{last}", y))
        x = x + y if y.shape == x.shape else y
    return pip_heads(w, F.relu6(norm(w, "features.18.1", conv(w, "features.18.0", x))))


def hard_swish(x):
    return x * F.relu6(x + 3) / 6


def excite(w, name, x):
    s = x.mean((2, 3)) @ w[f"{name}.fc.0.weight"].T + w[f"{name}.fc.0.bias"]
    s = F.relu(s) @ w[f"{name}.fc.2.weight"].T + w[f"{name}.fc.2.bias"]
    return x * (F.relu6(s + 3) / 6)[..., None, None]


def mobilenet_v3_pipnet(w, x):
    x = hard_swish(norm(w, "features.0.1", conv(w, "features.0.0", x, 2)))
    for i in range(1, 16):
        name, y = f"features.{i}.conv", x
        stride = 2 if i in (2, 4, 7, 13) else 1
        activate = hard_swish if i >= 7 else F.relu
        if i == 1:
            y = activate(norm(w, f"{name}.1", conv(w, f"{name}.0", y)))
            y = norm(w, f"{name}.5", conv(w, f"{name}.4", y))
        else:
            y = activate(norm(w, f"{name}.1", conv(w, f"{name}.0", y)))
            y = norm(w, f"{name}.4", conv(w, f"{name}.3", y, stride))
            if f"{name}.5.fc.0.weight" in w:
                y = excite(w, f"{name}.5", y)  # before the second activation
            y = norm(w, f"{name}.8", conv(w, f"{name}.7", activate(y)))
        x = x + y if y.shape == x.shape else y
    return pip_heads(w, hard_swish(norm(w, "conv.1", conv(w, "conv.0", x))))


def hrnet(w, x):
    def unit(name, x, stride=1):
        return norm(w, f"{name}.1", conv(w, f"{name}.0", x, stride))

    def larger(x, like):
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

    def fuse(name, i, branches):
        total = 0
        for j, branch in enumerate(branches):
            y = branch
            if j > i:
                y = larger(unit(f"{name}.{i}.{j}", y), branches[i])
            for k in range(i - j):
                y = unit(f"{name}.{i}.{j}.{k}", y, 2)
                y = F.relu(y) if k < i - j - 1 else y
            total = total + y
        return F.relu(total)

    def stage(number, modules, branches):
        for m in range(modules):
            name = f"stage{number}.{m}"
            for b in range(len(branches)):
                for block in range(4):
                    branches[b] = resnet_block(w, f"{name}.branches.{b}.{block}", branches[b], 1)
            branches = [fuse(f"{name}.fuse_layers", i, branches) for i in range(len(branches))]
        return branches

    for i in (1, 2):
        x = F.relu(norm(w, f"bn{i}", conv(w, f"conv{i}", x, 2)))
    for block in range(4):
        x = resnet_block(w, f"layer1.{block}", x, 1)
    new = F.relu(unit("transition1.1.0", x, 2))
    branches = stage(2, 1, [F.relu(unit("transition1.0", x)), new])
    new = F.relu(unit("transition2.2.0", branches[1], 2))
    branches = stage(3, 4, [*branches, new])
    new = F.relu(unit("transition3.3.0", branches[2], 2))
    branches = stage(4, 3, [*branches, new])
    x = torch.cat([larger(b, branches[0]) for b in branches], dim=1)
    return [conv(w, "head.3", F.relu(norm(w, "head.1", conv(w, "head.0", x))))]


def hih_unit(w, name, x, stride=1, last=False):
    x = norm(w, f"{name}.bn", conv(w, f"{name}.conv", x, stride))
    return x if last else F.relu(x)


def hih_residual(w, name, x):
    y = hih_unit(w, f"{name}.conv2", hih_unit(w, f"{name}.conv1", x))
    y = hih_unit(w, f"{name}.conv3", y, last=True)
    skip = x if x.shape[1] == y.shape[1] else hih_unit(w, f"{name}.skip_layer", x, last=True)
    return F.relu(skip + y)


def hih(w, x):
    def level(name, n, x):
        if n == 0:
            return hih_residual(w, f"{name}.res_center", x)
        low = hih_residual(w, f"{name}.res{n}_2", F.max_pool2d(x, 2, 2))
        low = hih_residual(w, f"{name}.res{n}_3", level(name, n - 1, low))
        low = F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=True)
        return hih_residual(w, f"{name}.res{n}_1", x) + low

    x = hih_residual(w, "pre_conv.1", hih_unit(w, "pre_conv.0", x, 2))
    x = F.max_pool2d(x, 2, 2)
    x = hih_residual(w, "pre_conv.4", hih_residual(w, "pre_conv.3", x))
    heatmaps = []
    for i in (0, 1):
        feature = hih_residual(w, f"hg{i}_res1", level(f"hg{i}", 4, x))
        feature = hih_unit(w, f"hg{i}_lin1", feature)
        heatmaps.append(conv(w, f"hg{i}_conv_pred", feature))
        x = x + hih_unit(w, f"hg{i}_conv1", feature) + hih_unit(w, f"hg{i}_conv2", heatmaps[i])
    x = F.max_pool2d(hih_unit(w, "offset_head.conv1", x), kernel_size=3, stride=2, padding=0)
    assert x.shape[2:] == (31, 31)
    for i in (0, 1):
        name = f"offset_head.down_ops.{i}"
        y = hih_unit(w, f"{name}.conv2", hih_unit(w, f"{name}.conv1", x, 2), last=True)
        x = F.relu(y + hih_unit(w, f"{name}.downsample.0", x, 2, last=True))
    offsets = conv(w, "offset_head.head.1", hih_unit(w, "offset_head.head.0", x))
    return [torch.stack(heatmaps, 1), offsets[:, None]]


def retinaface_resnet50(w, x):
    def unit(name, x, act=F.relu):  # 256 > 64 channels: no leak
        return act(norm(w, f"{name}.1", conv(w, f"{name}.0", x)))

    def same(x):
        return x

    levels = resnet_layers(w, x, "body.")[1:]
    levels = [unit(f"fpn.output{i + 1}", level) for i, level in enumerate(levels)]
    for i in (1, 0):
        above = F.interpolate(levels[i + 1], levels[i].shape[2:], mode="nearest")
        levels[i] = unit(f"fpn.merge{i + 1}", levels[i] + above)
    for i, x in enumerate(levels):
        five = unit(f"ssh{i + 1}.conv5X5_1", x)
        three = unit(f"ssh{i + 1}.conv3X3", x, same)
        seven = unit(f"ssh{i + 1}.conv7x7_3", unit(f"ssh{i + 1}.conv7X7_2", five), same)
        five = unit(f"ssh{i + 1}.conv5X5_2", five, same)
        levels[i] = F.relu(torch.cat([three, five, seven], 1))
    return [
        torch.cat(
            [
                conv(w, f"{head}.{i}.conv1x1", x).permute(0, 2, 3, 1).reshape(len(x), -1, width)
                for i, x in enumerate(levels)
            ],
            dim=1,
        )
        for head, width in (("BboxHead", 4), ("ClassHead", 2), ("LandmarkHead", 10))
    ]
