"""Gradients of whole networks of `ConvClassifier`, beside PyTorch's from the same weights; skipped without PyTorch."""

import numpy as np
import pytest

from nbnet import ConvClassifier
from nbnet.cpu.batch_norm import EPSILON
from nbnet.estimators.stored.layers import tensors_of
from nbnet.image_network import ConvSpec, PoolSpec, ResidualSpec
from nbnet.network import Activation, LayerKind

# Both sides compute in float32. An entry of a gradient may differ by this share of the largest entry of its tensor,
# which is Winograd's rounding error, and by what is lost where weights of about 1 are subtracted.
SHARE, LOST = 1e-4, 1e-6

NETS = {
    "plain": dict(conv_layers=(8, "max_pool", 12, "max_pool"), hidden_layer_sizes=(10,)),
    "batch norm": dict(conv_layers=(8, 16, "max_pool", 16), hidden_layer_sizes=(10,), batch_norm=True),
    "winograd": dict(conv_layers=(16, 32, "max_pool", 16), hidden_layer_sizes=(), conv_algorithm="winograd"),
    "direct": dict(conv_layers=(16, 32, "max_pool", 16), hidden_layer_sizes=(), conv_algorithm="direct"),
    "average pools": dict(conv_layers=((6, 5), "avg_pool", 7, "avg_pool"), hidden_layer_sizes=(9, 8)),
    "a global pool": dict(conv_layers=((5, 7), "max_pool", 20, "global_avg_pool"), hidden_layer_sizes=()),
    "strides": dict(conv_layers=((8, 3, 2), (12, 5, 2), 4), hidden_layer_sizes=(6,), label_smoothing=0.1),
    "valid": dict(conv_layers=((4, 5), "avg_pool", (6, 3, 2)), hidden_layer_sizes=(6,), padding="valid"),
    "residual": dict(conv_layers=(16, ("residual", 16), ("residual", 8, 2)), hidden_layer_sizes=(), activation="tanh"),
    "resnet": dict(
        conv_layers=(16, ("residual", 16), ("residual", 32, 2), "global_avg_pool"),
        hidden_layer_sizes=(),
        batch_norm=True,
    ),
}
X = np.random.default_rng(0).normal(size=(12, 11, 14, 3)).astype(np.float32)
Y = np.arange(12) % 3


def torch_outputs(model, tensors, x):
    """The network's outputs as PyTorch computes them in training; `tensors` are taken in the order of the layers."""
    from torch.nn import functional

    activations = {Activation.RELU: functional.relu, Activation.TANH: lambda z: z.tanh()}
    activations[Activation.IDENTITY] = lambda z: z
    names = iter(sorted({int(name.split(".")[1]) for name in tensors}))

    def conv(x, kernel_size, stride, same=True):
        name = f"layers.{next(names)}."
        weight, bias = tensors[name + "weight"], tensors[name + "bias"]
        filters = weight.reshape(kernel_size, kernel_size, x.shape[1], -1).permute(3, 2, 0, 1)
        padding = (kernel_size - 1) // 2 if same else 0
        if name + "scale" not in tensors:
            return functional.conv2d(x, filters, bias, stride, padding)
        z, scale = functional.conv2d(x, filters, None, stride, padding), tensors[name + "scale"]
        return functional.batch_norm(z, None, None, scale, bias, training=True, eps=EPSILON)

    recipe = model.network_.recipe
    for spec in recipe.specs:
        if isinstance(spec, ConvSpec):
            x = activations[spec.activation](conv(x, spec.kernel_size, spec.stride, recipe.padding == "same"))
        elif isinstance(spec, ResidualSpec):
            changes = spec.stride != 1 or x.shape[1] != spec.n_channels
            skip = conv(x, 1, spec.stride) if changes else x
            x = activations[spec.activation](conv(x, 3, spec.stride))
            x = activations[spec.activation](conv(x, 3, 1) + skip)
        elif isinstance(spec, PoolSpec):
            pool = functional.max_pool2d if spec.kind == LayerKind.MAX_POOL else functional.avg_pool2d
            x = pool(x, x.shape[2:] if spec.size is None else spec.size)
    x = x.permute(0, 2, 3, 1).flatten(1)
    for spec in recipe.dense_specs:
        name = f"layers.{next(names)}."
        x = activations[spec.activation](x @ tensors[name + "weight"] + tensors[name + "bias"])
    assert next(names, None) is None
    return x


@pytest.mark.parametrize("net", NETS)
@pytest.mark.slow_without_jit
def test_gradients_are_those_of_pytorch(net):
    torch = pytest.importorskip("torch")
    settings = dict(solver="sgd", momentum=0.0, learning_rate="constant", alpha=0.0, shuffle=False, random_state=0)
    model = ConvClassifier(**NETS[net], **settings, batch_size=len(X), learning_rate_init=0.1, normalize=False)
    model.partial_fit(X, Y, classes=[0, 1, 2])  # away from the starting weights: biases of 0, scales of 1
    layers, before = model.network_.layers, model.params_.copy()
    model.set_params(learning_rate_init=1.0).partial_fit(X, Y)  # a step of the gradient's length

    tensors = {
        name: torch.tensor(np.ascontiguousarray(tensor), requires_grad=True)
        for name, tensor in tensors_of(layers, before).items()
        if "running" not in name
    }
    outputs = torch_outputs(model, tensors, torch.tensor(X).permute(0, 3, 1, 2))
    loss = torch.nn.functional.cross_entropy(outputs, torch.tensor(Y), label_smoothing=model.label_smoothing)
    loss.backward()
    assert model.loss_ == pytest.approx(loss.item(), rel=1e-5)
    steps = tensors_of(layers, before - model.params_)
    assert len(tensors) >= 4
    for name, tensor in tensors.items():
        gradient = tensor.grad.numpy()
        assert np.abs(gradient).max() > 100 * LOST or "bias" in name, name  # there is something to compare
        np.testing.assert_allclose(
            steps[name], gradient, rtol=0, atol=SHARE * np.abs(gradient).max() + LOST, err_msg=name
        )
