"""Fitted networks as ONNX graphs, for servers and devices without Python.

Only elementary operators are used, so that a graph runs in float32 and in float64 (where a runtime's activations often
have float32 only): MatMul, Add, Max, Exp, Conv, MaxPool and the like, all of opset 13.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from . import __version__
from .cpu.batch_norm import EPSILON
from .estimators.conv import ConvClassifier
from .estimators.mlp import MLPClassifier, MLPRegressor
from .estimators.scaling import CLIP, InputScaler, InputScaling
from .image_network import running_mean_of, running_variance_of, scale_of
from .network import NONE, Activation, LayerKind, bias_of, weight_of
from .scalar import GELU_CUBIC, GELU_LINEAR

OPSET = 13  # every runtime since 2020 knows it
IR_VERSION = 8
INPUT = "X"
N_ROWS = "n"  # any number of them
OUTPUTS = {True: ("label", "probabilities"), False: ("variable",)}  # of classifiers or not; skl2onnx's names
ESTIMATORS = (MLPClassifier, MLPRegressor, ConvClassifier)
ONNX_MISSING = "to_onnx needs the package onnx: pip install 'nbnet[onnx]'."


class Node(NamedTuple):
    """An operator with its inputs, its one output and its attributes."""

    operator: str
    inputs: list[str]
    output: str
    attributes: dict


class Graph:
    """Nodes and constants, not yet of any library.

    Parameters
    ----------
    unique : callable
        ``unique(name)`` gives a name that nothing else has.
    """

    def __init__(self, unique=None):
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.unique = unique or self._numbered

    def _numbered(self, name: str) -> str:
        return f"{name}_{len(self.nodes) + len(self.constants)}"

    def constant(self, value, dtype) -> str:
        """Name of a constant."""
        name = self.unique("constant")
        self.constants[name] = np.ascontiguousarray(value, dtype) if np.ndim(value) else np.array(value, dtype)
        return name

    def add(self, operator: str, *inputs: str, **attributes) -> str:
        """Name of the output of a new node."""
        output = self.unique(operator.lower())
        self.nodes.append(Node(operator, list(inputs), output, attributes))
        return output

    def cast(self, x: str, dtype) -> str:
        """`x` as numbers of another type."""
        return self.add("Cast", x, to=onnx_type(dtype))


def onnx_type(dtype) -> int:
    """ONNX's number of a type."""
    return _onnx().helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _onnx():
    try:
        import onnx
    except ImportError as error:
        raise ImportError(ONNX_MISSING) from error
    return onnx


# ---------------------------------------------------------------- layers


def activate(graph: Graph, x: str, activation: int, dtype) -> str:
    """The activation of `x`; formulas in `nbnet.scalar`."""
    add = graph.add

    def number(value: float) -> str:
        return graph.constant(value, dtype)

    if activation == Activation.RELU:
        return add("Max", x, number(0))
    if activation == Activation.LEAKY_RELU:
        return add("Max", x, add("Mul", x, number(0.01)))
    if activation == Activation.ELU:
        return add("Add", add("Max", x, number(0)), add("Sub", add("Exp", add("Min", x, number(0))), number(1)))
    if activation == Activation.TANH:
        return add("Tanh", x)
    if activation == Activation.LOGISTIC:
        return add("Sigmoid", x)
    if activation == Activation.SOFTPLUS:
        small = add("Exp", add("Neg", add("Abs", x)))
        return add("Add", add("Max", x, number(0)), add("Log", add("Add", small, number(1))))
    if activation == Activation.SILU:
        return add("Mul", x, add("Sigmoid", x))
    if activation == Activation.GELU:
        slope = add("Add", add("Mul", add("Mul", x, x), number(GELU_CUBIC)), number(GELU_LINEAR))
        return add("Mul", x, add("Sigmoid", add("Mul", x, slope)))
    if activation == Activation.IDENTITY:
        return x
    raise ValueError(f"to_onnx has no operators for the activation {Activation(activation).name.lower()!r}.")


def dense(graph: Graph, x: str, rows, params: np.ndarray, dtype) -> str:
    """Fully connected layers."""
    for row in rows:
        product = graph.add("MatMul", x, graph.constant(weight_of(params, row), dtype))
        x = graph.add("Add", product, graph.constant(bias_of(params, row), dtype))
        x = activate(graph, x, row["activation"], dtype)
    return x


def scaled(graph: Graph, x: str, scaler: InputScaler, dtype) -> str:
    """The columns brought to one scale, in float64 as `InputScaler.transform` does it."""
    add, wide = graph.add, np.float64
    x = graph.cast(x, wide)
    z = add("Mul", add("Sub", x, graph.constant(scaler.center, wide)), graph.constant(scaler.scale, wide))
    if scaler.kind == InputScaling.ROBUST:
        z = add("Max", add("Min", z, graph.constant(1e100, wide)), graph.constant(-1e100, wide))
        share = add("Div", z, graph.constant(CLIP, wide))
        z = add("Div", z, add("Sqrt", add("Add", add("Mul", share, share), graph.constant(1, wide))))
    return graph.cast(z, dtype)


def images(graph: Graph, x: str, model: ConvClassifier, dtype) -> str:
    """Layers of images, channels first; returns what the dense layers read."""
    height, width, channels = (int(n) for n in model.image_shape_)
    x = graph.add("Reshape", x, graph.constant([-1, height, width, channels], np.int64))
    x = graph.add("Sub", x, graph.constant(model.channel_mean_, dtype))
    x = graph.add("Mul", x, graph.constant(1.0 / model.channel_deviation_, dtype))
    maps = [graph.add("Transpose", x, perm=[0, 3, 1, 2])]
    of_network, params = model.network_, model.params_
    for row in of_network.image_layers[1:]:
        x = maps[row["input"]]
        window = [int(row["pool_height"]), int(row["pool_width"])]
        if row["kind"] == LayerKind.CONV2D:
            x = convolution(graph, x, row, of_network.layers[row["input"]], params, dtype)
            if row["skip"] != NONE:
                x = graph.add("Add", x, maps[row["skip"]])
            x = activate(graph, x, row["activation"], dtype)
        if row["kind"] == LayerKind.AVG_POOL:
            x = graph.add("AveragePool", x, kernel_shape=window, strides=window)
        elif row["kind"] == LayerKind.MAX_POOL or window != [1, 1]:
            x = graph.add("MaxPool", x, kernel_shape=window, strides=window)
        maps.append(x)
    flat = graph.add("Transpose", maps[-1], perm=[0, 2, 3, 1])
    return graph.add("Reshape", flat, graph.constant([-1, int(of_network.dense.layers["n_in"][0])], np.int64))


def convolution(graph: Graph, x: str, row, source, params: np.ndarray, dtype) -> str:
    """A convolution of the layer `source`, with batch norm folded into its filters."""
    k, stride, padding = int(row["kernel_size"]), int(row["stride"]), int(row["padding"])
    filters = weight_of(params, row).astype(np.float64).reshape(k, k, int(row["in_channels"]), -1)
    bias = bias_of(params, row).astype(np.float64)
    if row["scale_start"] != NONE:
        factor = scale_of(params, row) / np.sqrt(running_variance_of(params, row).astype(np.float64) + EPSILON)
        filters, bias = filters * factor, bias - running_mean_of(params, row) * factor
    sides = [(int(row[side]), int(source[f"out_{side}"])) for side in ("height", "width")]
    after = [max(0, (n_out - 1) * stride + k - padding - n_in) for n_out, n_in in sides]
    return graph.add(
        "Conv",
        x,
        graph.constant(filters.transpose(3, 2, 0, 1), dtype),
        graph.constant(bias, dtype),
        kernel_shape=[k, k],
        strides=[stride, stride],
        pads=[padding, padding, *after],
    )


# ---------------------------------------------------------------- the whole model


def outputs_of(graph: Graph, model, x: str, input_dtype) -> tuple[str, ...]:
    """Nodes of a fitted estimator: names of labels and probabilities, or of predicted values."""
    is_conv = isinstance(model, ConvClassifier)
    dtype = np.dtype(np.float32) if is_conv else model.params_.dtype  # runtimes have no convolution in float64
    scaler = vars(model).get("_input_scaler")
    if scaler is not None:
        x = scaled(graph, x, scaler, dtype)
    elif np.dtype(input_dtype) != dtype:
        x = graph.cast(x, dtype)
    if is_conv:
        x = images(graph, x, model, dtype)
    layers = model.network_.layers
    x = dense(graph, x, layers[layers["kind"] == LayerKind.DENSE], model.params_, dtype)
    link = {"softmax": "Softmax", "logistic": "Sigmoid", "exp": "Exp"}.get(model.out_activation_)
    if link is not None:
        x = graph.add(link, x, **({"axis": 1} if link == "Softmax" else {}))
    return labels_and_probabilities(graph, model, x, dtype) if is_classifier(model) else (x,)


def labels_and_probabilities(graph: Graph, model, x: str, dtype) -> tuple[str, str]:
    """What `predict` and `predict_proba` make of the network's output."""
    classes = model.classes_
    if model._multilabel:
        return graph.cast(graph.add("Greater", x, graph.constant(0.5, dtype)), np.int64), x
    if model.out_activation_ == "softmax":
        number = graph.add("ArgMax", x, axis=1, keepdims=0)
    else:
        positive = graph.add("Reshape", x, graph.constant([-1], np.int64))
        number = graph.cast(graph.add("Greater", positive, graph.constant(0.5, dtype)), np.int64)
        number = graph.add("Min", number, graph.constant(len(classes) - 1, np.int64))  # there may be one class only
        x = graph.add("Concat", graph.add("Sub", graph.constant(1, dtype), x), x, axis=1)
    kind = {"f": classes.dtype, "O": object, "U": object}.get(classes.dtype.kind, np.int64)
    return graph.add("Gather", graph.constant(classes, kind), number), x


def input_of(model) -> tuple[np.dtype, list]:
    """Type and shape of the input, where nothing else is asked for."""
    if not isinstance(model, ConvClassifier):
        return model.params_.dtype, [N_ROWS, model.n_features_in_]
    shape = model.image_shape_ if model.image_shape is None else [model.n_features_in_]
    return np.dtype(np.float32), [N_ROWS, *map(int, shape)]


def check_model(model) -> None:
    """Raise where there is no graph for this estimator."""
    if not isinstance(model, ESTIMATORS):
        names = ", ".join(cls.__name__ for cls in ESTIMATORS)
        raise ValueError(f"to_onnx has graphs for {names}, not for {type(model).__name__}.")
    check_is_fitted(model, "params_")


def to_onnx(model, *, input_dtype=None):
    """The ONNX graph of a fitted network.

    Parameters
    ----------
    model : MLPClassifier, MLPRegressor or ConvClassifier
        A fitted estimator. For pipelines see `register_converters`.
    input_dtype : dtype, default=None
        Type of the graph's input, such as "uint8" for images. None: the type of the network, which is that of X in
        `fit` for tables, and float32 for images.

    Returns
    -------
    graph : onnx.ModelProto
        Its input is named "X", with one row a sample; images are (n, height, width, channels), or flat rows if the
        estimator has an `image_shape`. Its outputs are "label" and "probabilities", or "variable" of a regressor, as
        those that skl2onnx makes. Labels are int64, texts or floats; booleans become int64.

    Raises
    ------
    ImportError
        Without the package onnx.
    ValueError
        For other estimators.
    NotFittedError
        Before `fit`.

    Notes
    -----
    Networks over tables compute in their own type, those over images in float32. Measured on real data in onnxruntime,
    probabilities differ from those of `predict_proba` by less than 1e-5.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import nbnet
    >>> X, y = load_iris(return_X_y=True)
    >>> model = nbnet.MLPClassifier(solver="lbfgs", input_scaling="standard", random_state=0).fit(X, y)
    >>> graph = nbnet.to_onnx(model).graph
    >>> [output.name for output in graph.output]
    ['label', 'probabilities']
    """
    onnx = _onnx()
    check_model(model)
    own_dtype, shape = input_of(model)
    input_dtype = np.dtype(input_dtype or own_dtype)
    graph = Graph()
    names = outputs_of(graph, model, INPUT, input_dtype)
    outputs = OUTPUTS[is_classifier(model)]
    helper = onnx.helper
    nodes = [helper.make_node(node.operator, node.inputs, [node.output], **node.attributes) for node in graph.nodes]
    nodes += [helper.make_node("Identity", [name], [output]) for name, output in zip(names, outputs, strict=True)]
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
    x = helper.make_tensor_value_info(INPUT, onnx_type(input_dtype), shape)
    y = [helper.make_tensor_value_info(name, *of) for name, of in zip(outputs, output_types(model), strict=True)]
    made = helper.make_model(
        helper.make_graph(nodes, type(model).__name__, [x], y, constants),
        producer_name="nbnet",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def output_types(model) -> list[tuple[int, list]]:
    """Type and shape of each output."""
    dtype = np.float32 if isinstance(model, ConvClassifier) else model.params_.dtype
    if not is_classifier(model):
        return [(onnx_type(dtype), [N_ROWS, model.n_outputs_])]
    kind = model.classes_.dtype.kind
    if model._multilabel:
        label = onnx_type(np.int64), [N_ROWS, model.n_outputs_]
    else:
        text = _onnx().TensorProto.STRING
        label = text if kind in "OU" else onnx_type(model.classes_.dtype if kind == "f" else np.int64), [N_ROWS]
    n_columns = model.n_outputs_ if model.n_outputs_ > 1 else 2
    return [label, (onnx_type(dtype), [N_ROWS, n_columns])]


# ---------------------------------------------------------------- pipelines


def register_converters() -> None:
    """Let skl2onnx convert pipelines with `MLPClassifier`, `MLPRegressor` and `ConvClassifier` (over flat rows).

    Call it once, then ``skl2onnx.to_onnx(pipeline, X[:1])``.

    Raises
    ------
    ImportError
        Without the package skl2onnx.
    """
    try:
        from skl2onnx import update_registered_converter
    except ImportError as error:
        raise ImportError("register_converters needs the package skl2onnx: pip install skl2onnx.") from error
    classifier_options = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
    for cls in ESTIMATORS:
        options = None if cls is MLPRegressor else classifier_options
        update_registered_converter(cls, f"Nbnet{cls.__name__}", _set_shapes, _convert, options=options)


def _set_shapes(operator) -> None:
    """skl2onnx's shape function."""
    from skl2onnx.common import data_types

    model = operator.raw_operator
    check_model(model)
    n = operator.inputs[0].get_first_dimension()
    shapes = [[n, *shape[1:]] for _, shape in output_types(model)]
    if is_classifier(model):
        is_text = not model._multilabel and model.classes_.dtype.kind in "OU"
        operator.outputs[0].type = (data_types.StringTensorType if is_text else data_types.Int64TensorType)(shapes[0])
        operator.outputs[1].type.shape = shapes[1]
    else:
        is_double = isinstance(operator.inputs[0].type, data_types.DoubleTensorType)
        operator.outputs[0].type = (data_types.DoubleTensorType if is_double else data_types.FloatTensorType)(shapes[0])


def _convert(scope, operator, container) -> None:
    """skl2onnx's converter."""
    from skl2onnx.common.data_types import guess_numpy_type, guess_proto_type

    onnx, x = _onnx(), operator.inputs[0]
    graph = Graph(scope.get_unique_variable_name)
    names = outputs_of(graph, operator.raw_operator, x.full_name, guess_numpy_type(x.type))
    for name, value in graph.constants.items():
        entries = value.reshape(-1).tolist()
        if value.dtype == object:
            kind, entries = onnx.TensorProto.STRING, [text.encode() for text in entries]
        else:
            kind = onnx_type(value.dtype)
        container.add_initializer(name, kind, value.shape, entries)
    for node in graph.nodes:
        container.add_node(node.operator, node.inputs, [node.output], name=node.output, **node.attributes)
    for name, output in zip(names, operator.outputs, strict=True):
        target = guess_proto_type(output.type)
        operation, attributes = ("Identity", {}) if target == onnx.TensorProto.STRING else ("Cast", {"to": target})
        container.add_node(operation, [name], [output.full_name], name=output.full_name, **attributes)
