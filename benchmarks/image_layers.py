"""One convolution at a time beside PyTorch's oneDNN: forward, gradient of the filters, both gradients.

A batch of BATCH images with bias and relu, forward and backward, through the kernels of nbnet's walk as in a fit.
Winograd's algorithm needs fewer multiplications than are counted, so its share of the peak may exceed one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nbnet.cpu.conv_backward import backward_slice
from nbnet.cpu.conv_forward import forward_segment
from nbnet.cpu.conv_net import Span
from nbnet.cpu.conv_session import ConvSession, as_images, as_targets
from nbnet.epochs import EpochPlan, UpdateRule
from nbnet.image_network import ConvSpec, PoolSpec, build_images, initialize_images
from nbnet.network import ConvAlgorithm, DenseSpec, LayerKind, Loss, Optimizer

from .image_steps import BATCH, best
from .products import fma_peak


class ConvCase(NamedTuple):
    """A convolution with padding "same" over a square image."""

    n_in: int
    n_out: int
    size: int
    kernel_size: int = 3
    stride: int = 1

    @property
    def title(self) -> str:
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.n_in}->{self.n_out} at {self.size}, {self.kernel_size}x{self.kernel_size}{stride}"

    @property
    def flop(self) -> float:
        return 2.0 * BATCH * (self.size // self.stride) ** 2 * self.kernel_size**2 * self.n_in * self.n_out


CASES = [
    *(ConvCase(3, 32, size) for size in (28, 32)),
    *(ConvCase(32, 64, size) for size in (28, 14, 32, 16)),
    ConvCase(64, 64, 8),
    ConvCase(128, 128, 8),
    ConvCase(32, 64, 16, kernel_size=5),
    ConvCase(32, 64, 16, stride=2),
    ConvCase(64, 128, 16, kernel_size=1),
]


def nbnet_calls(case: ConvCase, below: bool):
    """Functions that take a batch forward and backward through the convolution, and its algorithm; with `below` there
    is a layer that wants the gradient of the input."""
    shape = (case.size, case.size, case.n_in)
    first = [ConvSpec(case.n_in, 1)] if below else []
    specs = [*first, ConvSpec(case.n_out, case.kernel_size, case.stride), PoolSpec(LayerKind.AVG_POOL, None)]
    network = build_images(shape, specs, [DenseSpec(10)])
    session = ConvSession(network, initialize_images(network, np.float32, 0), Loss.SOFTMAX_CROSS_ENTROPY, n_jobs=1)
    X = np.random.default_rng(0).standard_normal((BATCH, *shape)).astype(np.float32)
    targets = as_targets(np.arange(BATCH) % 10, None, np.ones(BATCH), 10, np.float32)
    session.prepare(UpdateRule(Optimizer.ADAM, BATCH))
    rows = as_images(X, shape, np.zeros(case.n_in), np.ones(case.n_in), np.float32)
    session.train_epoch(rows, targets, EpochPlan(np.arange(BATCH), np.full(1, 1e-3), np.zeros(1), 0))  # fills all maps
    net = session._net._replace(scratch=session._net.scratch[0])
    slices, number = session._update.slices, len(first) + 1

    def forward():
        for start in range(0, BATCH, net.block):
            forward_segment(net, number, number + 1, Span(start, min(start + net.block, BATCH), 0))

    def backward():
        for s in range(len(slices)):
            images = s * BATCH // len(slices), (s + 1) * BATCH // len(slices)
            backward_slice(net, number, number, images, False, slices[s])

    return forward, backward, ConvAlgorithm(int(network.layers[number]["algorithm"])).name.lower()


def torch_calls(case: ConvCase, layout):
    """The same three in PyTorch."""
    import torch

    x = torch.randn(BATCH, case.n_in, case.size, case.size).to(memory_format=layout)
    weight = torch.randn(case.n_out, case.n_in, case.kernel_size, case.kernel_size).to(memory_format=layout)
    bias, pad = torch.randn(case.n_out), case.kernel_size // 2
    about = [case.stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1
    y = torch.ops.aten.convolution(x, weight, bias, *about)
    grad = torch.randn_like(y)

    def backward(*wanted):
        def call():
            before = torch.ops.aten.threshold_backward(grad, y, 0)
            torch.ops.aten.convolution_backward(before, x, weight, [case.n_out], *about, wanted)

        return call

    def forward():
        torch.ops.aten.relu_(torch.ops.aten.convolution(x, weight, bias, *about))

    return forward, backward(False, True, True), backward(True, True, True)


def layer_rows() -> list[dict]:
    """Milliseconds of each case on one core, nbnet's and PyTorch's, and the share of the core's peak."""
    import torch

    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        forward, filters, algorithm = nbnet_calls(case, below=False)
        _, both, _ = nbnet_calls(case, below=True)
        functions = {("nbnet", "forward"): forward, ("nbnet", "filters"): filters, ("nbnet", "both"): both}
        for layout in (torch.contiguous_format, torch.channels_last):
            for what, function in zip(("forward", "filters", "both"), torch_calls(case, layout), strict=True):
                functions[layout, what] = function
        with torch.inference_mode():
            times = best(functions, 9)
        peak = fma_peak()
        line = {"case": case.title, "algorithm": algorithm}
        for what, n_products in (("forward", 1), ("filters", 1), ("both", 2)):
            ours = times["nbnet", what]
            theirs = min(time for (side, of), time in times.items() if of == what and side != "nbnet")
            share = n_products * case.flop / ours / 1e6 / peak
            line[what] = {"nbnet": ours, "PyTorch": theirs, "peak": share}
        rows.append(line)
        print(layer_line(line), flush=True)
    return rows


def layer_line(row: dict) -> str:
    """A row of `layer_rows` as text."""
    cells = []
    for what in ("forward", "filters", "both"):
        ours, theirs, peak = (row[what][name] for name in ("nbnet", "PyTorch", "peak"))
        cells.append(f"{what} {ours:6.2f} ms {theirs / ours:5.2f} x {peak:4.0%}")
    return f"{row['case']:28} {row['algorithm']:8} {'  '.join(cells)}"
