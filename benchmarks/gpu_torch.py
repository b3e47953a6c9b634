"""The networks of `benchmarks.gpu` in PyTorch: rows gathered on the GPU, steps eager or in one captured graph."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise


def torch_on_gpu():
    """PyTorch, if it is installed and sees the GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def allow_tf32(torch, allowed: bool) -> None:
    """TF32 in products and in convolutions, whose default it is."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def layers_and_adam(torch, sizes, as_graph: bool):
    """Fully connected layers with relu between them, and Adam."""
    parts = []
    for n_in, n_out in pairwise(sizes):
        parts += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    return _with_adam(torch, torch.nn.Sequential(*parts[:-1]), as_graph)


def _with_adam(torch, model, as_graph: bool):
    model = model.cuda()
    return model, torch.optim.Adam(model.parameters(), weight_decay=1e-4, fused=True, capturable=as_graph)


def mlp(torch, as_graph: bool):
    """As ``MLPClassifier((256, 128))`` over 100 columns and 10 classes."""
    return layers_and_adam(torch, (100, 256, 128, 10), as_graph)


def text(torch, as_graph: bool):
    """As ``TextEmbeddingClassifier(100, pooling="mean")``: gradients of the words of a batch only, but in a graph."""
    bags = torch.nn.EmbeddingBag(20_000, 100, mode="mean", sparse=not as_graph)
    model = torch.nn.Sequential(bags, torch.nn.Linear(100, 10)).cuda()
    # a graph cannot ask the host for the number of its steps, as Adagrad does; SGD does less work
    kind = torch.optim.SGD if as_graph else torch.optim.Adagrad
    return model, kind(model.parameters(), lr=0.04)


def conv(torch, as_graph: bool):
    """As ``ConvClassifier()`` over grey images of 28 x 28 and 10 classes."""
    nn = torch.nn
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    return _with_adam(torch, model, as_graph)


def epoch_of(torch, model, optimizer, inputs, labels, batch_size: int, as_graph: bool) -> Callable[[], None]:
    """A function that trains one epoch of whole batches, and ends with the GPU idle."""
    loss_of = torch.nn.CrossEntropyLoss()
    x, y = torch.from_numpy(inputs).cuda(), torch.from_numpy(labels).cuda()
    order = torch.randperm(len(x), device="cuda")
    chosen = order[:batch_size].clone()

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_of(model(x[chosen]), y[chosen]).backward()
        optimizer.step()

    if as_graph:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):  # what the first steps allocate must not be captured
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        step = graph.replay

    def epoch():
        for start in range(0, len(x) - batch_size + 1, batch_size):
            chosen.copy_(order[start : start + batch_size])
            step()
        torch.cuda.synchronize()

    return epoch
