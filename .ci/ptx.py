"""Compiles every kernel that training launches for several generations of GPUs, without one, and inspects the code.

    python .ci/ptx.py [--cc 7.5 8.0 9.0 10.0] [--complete] [--keep FOLDER] [--part N] [-v]

Networks of all kinds are walked as training does, with arrays of the host in the place of the GPU's; what would be
launched is compiled. A line for each kernel; exit status 1 if one does not compile, spills registers, keeps a local
array in memory (a stack frame), computes in float64 where the network does not, needs more registers than its block may
have, or, for the largest tiles of products, if less than 85 % of the inner loop are multiplications. Needs the extra
cuda-dev: no driver, no GPU.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from scipy.sparse import csr_array

REGISTERS_A_PROCESSOR = 65536
REGISTERS = r"Used (\d+) registers"
HOPPER = (9, 0)  # from here on, launch bounds are others; and the capability that has the complete check
PARTS = 2  # of a check, each in a process
SHARE = 0.85  # of multiplications in the inner loop of the largest tiles


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cc", nargs="+", default=["7.5", "8.0", "9.0", "10.0"], help="compute capabilities")
    parser.add_argument("--complete", action="store_true", help="all kinds in both precisions not for 9.0 alone")
    parser.add_argument("--keep", type=Path, help="folder for the machine code")
    parser.add_argument("--part", type=int, help="check only every PARTSth kernel, from this one on")
    parser.add_argument("-v", action="store_true", help="a line for each kernel, not only for those that fail")
    arguments = parser.parse_args()
    capabilities = [tuple(int(n) for n in cc.split(".")) for cc in arguments.cc]
    groups = [
        group for group in ([cc for cc in capabilities if (cc >= HOPPER) == new] for new in (False, True)) if group
    ]
    if arguments.part is not None:
        if len(groups) > 1:
            parser.error("--part takes capabilities on one side of 9.0")
        return check(groups[0], arguments.part, arguments.complete, arguments.keep, arguments.v)
    commands = [
        [sys.executable, *sys.argv, "--part", str(part), "--cc", *(f"{major}.{minor}" for major, minor in group)]
        for group in groups
        for part in range(PARTS)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return max(pool.map(lambda command: subprocess.run(command).returncode, commands))


def check(capabilities: list, part: int, complete: bool, keep: Path | None, verbose: bool) -> int:
    """Compile and inspect one part of the kernels for compute capabilities that launch the same ones."""
    pretend_gpu(max(capabilities))
    usual = kernels(complete)
    found = kernels(complete=True) if HOPPER in capabilities else usual  # once is enough for what differs in arithmetic
    counts, n_failed = dict.fromkeys(capabilities, 0), 0
    with tempfile.TemporaryDirectory() as folder:
        for name, (kernel, signature) in list(found.items())[part::PARTS]:
            of_kernel = capabilities if (kernel, signature) in usual.values() else [HOPPER]
            library = None
            for cc in of_kernel:
                try:
                    library = library or compiled(kernel, signature, cc)
                    code = assemble(library.get_asm_str(cc=cc), cc, Path(keep or folder), name)
                    faults = inspect_code(kernel, name, code)
                except Exception as error:  # whatever keeps a kernel from compiling is what this program is to find
                    code, faults = "", [f"{type(error).__name__}: {error}"]
                counts[cc] += 1
                n_failed += bool(faults)
                if faults or verbose:
                    print(f"sm_{cc[0]}{cc[1]:<3}{name:72s} {summary(code)} {'; '.join(faults)}", flush=True)
    numbers = ", ".join(f"{n} for sm_{cc[0]}{cc[1]}" for cc, n in counts.items())
    print(f"{n_failed} kernels are not as they should be, of {numbers}", flush=True)
    return int(n_failed > 0)


# ---------------------------------------------------------------- what training launches


class HostArray(np.ndarray):
    """Stands for an array of the GPU while launches are put together."""

    def copy_to_host(self, out=None):
        return np.asarray(self) if out is None else out

    def copy_to_device(self, source):
        pass


def pretend_gpu(cc: tuple[int, int]) -> None:
    """The compiler asks the driver for the GPU; here is none, so it is told."""
    from numba.cuda import compiler, dispatcher

    gpu = SimpleNamespace(compute_capability=cc, name=b"none", id=0, MULTIPROCESSOR_COUNT=132)
    dispatcher.get_current_device = compiler.get_current_device = lambda: gpu

    from nbnet.cuda import blas, launch

    blas.library = lambda: None  # own kernels only, whatever is installed
    launch.cuda = SimpleNamespace(
        to_device=lambda array: array.copy().view(HostArray),
        device_array=lambda n, dtype: np.zeros(n, dtype).view(HostArray),
        get_current_device=lambda: gpu,
        current_context=lambda: SimpleNamespace(get_memory_info=lambda: (2**40, 2**40)),
    )


def kernels(complete: bool) -> dict:
    """{name: (kernel, signature)} of all that training, evaluating and predicting launch, each once."""
    from numba import typeof

    found = {}
    for dtype, launches in everything(complete):
        for launch in launches:
            signature = tuple(typeof(arg) for arg in launch.args)
            entry = launch.kernel, signature
            if entry not in found.values():
                name = f"{launch.kernel.py_func.__name__} {dtype} {variant(launch.kernel)}"
                n_same = sum(other.startswith(name) for other in found)
                found[f"{name} {n_same}" if n_same else name] = entry
    return found


def variant(kernel) -> str:
    """What tells kernels of one factory apart."""
    made_with = inspect.getclosurevars(kernel.py_func).nonlocals
    if "finish" in made_with:  # of a product: what takes the sums
        made_with |= inspect.getclosurevars(made_with["finish"].py_func).nonlocals
    tile = f"{made_with['tile_rows']}x{made_with['tile_columns']}" if "tile_rows" in made_with else ""
    return f"{tile} {made_with['store'].py_func.__name__ if 'store' in made_with else ''}".strip()


def everything(complete: bool):
    """Pairs (precision, launches) of networks that together launch every kernel there is."""
    from nbnet.network import Activation, Loss, Optimizer

    X = np.random.default_rng(0).normal(size=(40, 20))
    for dtype in ("float32", "float64") if complete else ("float32",):
        table = X.astype(dtype)
        for loss in Loss:
            yield dtype, launches(table, loss, Activation.RELU, Optimizer.ADAM)
        for activation in Activation if dtype == "float32" and complete else (Activation.GELU,):
            yield dtype, launches(table, Loss.HUBER, activation, Optimizer.SGD)
        yield dtype, launches(table, Loss.HUBER, Activation.RELU, Optimizer.SGD, nesterov=False)
        yield dtype, launches(table, Loss.HUBER, Activation.RELU, Optimizer.ADAGRAD, dropout=0.5, max_grad_norm=1.0)
        for other in ("float32", "float64"):
            for rows in (X.astype(other), csr_array(X.astype(other))):
                yield dtype, launches(rows, Loss.HUBER, Activation.RELU, Optimizer.SGD, dtype)
        yield from text_networks(dtype, all_pairs=dtype == "float32" and complete)
        for width, n_rows in ((1024, 1024), (2048, 2048)):  # large enough for the larger tiles
            wide = np.broadcast_to(np.zeros(1, dtype), (n_rows, width))
            for activation in (Activation.RELU, Activation.GELU):
                yield dtype, launches(wide, Loss.HUBER, activation, Optimizer.SGD, width=width, batch_size=n_rows)
        yield from ((dtype, launches_of_team(table, *kind)) for kind in kinds_of_teams(dtype, complete))
        yield from ((dtype, recorded) for recorded in image_networks(dtype, complete))
        # long sums and few tiles, so sums in parts
        for shape, width in (((8, 4096), 2048), ((8, 4096), 24), ((4096, 16), 24)):
            long = np.broadcast_to(np.zeros(1, dtype), shape)
            for activation in (Activation.RELU, Activation.GELU):
                yield dtype, launches(long, Loss.HUBER, activation, Optimizer.SGD, width=width, batch_size=shape[0])


def kinds_of_teams(dtype: str, complete: bool):
    """(loss, activation, optimizer, nesterov) of kernels that together have every part of `small_nets`."""
    from nbnet.network import Activation, Loss, Optimizer

    yield Loss.SOFTMAX_CROSS_ENTROPY, Activation.GELU, Optimizer.ADAM, True
    if dtype == "float32" and complete:
        yield Loss.SIGMOID_CROSS_ENTROPY, Activation.RELU, Optimizer.SGD, True
        yield Loss.QUANTILE, Activation.TANH, Optimizer.ADAGRAD, True
        for activation in set(Activation) - {Activation.GELU, Activation.RELU, Activation.TANH}:
            yield Loss.POISSON, activation, Optimizer.SGD, False


def launches_of_team(X, loss, activation, optimizer, nesterov) -> list:
    """All launches of an epoch of two small networks."""
    from nbnet.cuda import launch, small_sessions
    from nbnet.cuda import session as gpu
    from nbnet.epochs import EpochPlan, UpdateRule
    from nbnet.network import DenseSpec, Loss, build

    recorded = []
    launch.Queue.run = lambda queue, times=1: recorded.extend(queue.launches)
    n, n_outputs = X.shape[0], 5
    network = build(X.shape[1], [DenseSpec(24, activation, 0.5)] * 2 + [DenseSpec(n_outputs)])
    by_label = loss == Loss.SOFTMAX_CROSS_ENTROPY
    labels, values = (np.zeros(n), None) if by_label else (None, np.zeros((n, n_outputs)))
    targets = small_sessions.as_targets(labels, values, np.ones(n), n_outputs, X.dtype)
    sessions = [small_sessions.Session(network, np.zeros(network.n_params, X.dtype), loss) for _ in range(2)]
    for session in sessions:
        session.prepare(UpdateRule(optimizer, 8, nesterov=nesterov))
    team = small_sessions.Team(sessions, gpu.as_rows(X), [targets] * 2, [n] * 2)
    steps = np.zeros(-(-n // 8))
    team.train_epoch(
        {i: session.steps(targets, EpochPlan(np.arange(n), steps, steps, 0)) for i, session in enumerate(sessions)}
    )
    return recorded


def launches(X, loss, activation, optimizer, dtype=None, *, width=24, batch_size=8, dropout=0.0, **options) -> list:
    """All launches of the calls that a fit and a prediction make."""
    from nbnet.cuda import session as gpu
    from nbnet.epochs import EpochPlan, UpdateRule
    from nbnet.network import DenseSpec, Loss, build

    recorded = []
    gpu.Queue.run = lambda queue, times=1: recorded.extend(queue.launches)
    dtype, n, n_outputs = np.dtype(dtype or X.dtype), X.shape[0], 5
    hidden = [DenseSpec(width, activation, dropout)] * 2
    network = build(X.shape[1], [*hidden, DenseSpec(n_outputs)])
    session = gpu.Session(network, np.zeros(network.n_params, dtype), loss)
    by_label = loss == Loss.SOFTMAX_CROSS_ENTROPY
    labels, values = (np.zeros(n), None) if by_label else (None, np.zeros((n, n_outputs)))
    rows, targets = gpu.as_rows(X), gpu.as_targets(labels, values, np.ones(n), n_outputs, dtype)
    session.prepare(UpdateRule(optimizer, batch_size, **options))
    steps = np.zeros(-(-n // batch_size))
    session.train_epoch(rows, targets, EpochPlan(np.arange(n), steps, steps, 0))
    gpu.BLOCK_ROWS = max(n // 2, 1)
    session.loss_and_gradient(rows, targets, 0.0)
    session.evaluate(rows, targets)
    session.predict(rows)
    return recorded


def image_networks(dtype: str, all_kinds: bool):
    """Launches of networks over images: of one with all that matters, or together every kernel there is for them."""
    from nbnet.image_network import ConvSpec, PoolSpec, ResidualSpec
    from nbnet.images import Augmentation
    from nbnet.network import Activation, LayerKind

    largest, mean, tanh = PoolSpec(LayerKind.MAX_POOL), PoolSpec(LayerKind.AVG_POOL), Activation.TANH
    first, whole = ConvSpec(5, batch_norm=True), PoolSpec(LayerKind.AVG_POOL, None)
    if dtype == "float64":
        if all_kinds:
            yield image_launches([first, ConvSpec(3), whole], dtype)
        return
    residual = [first, largest, ResidualSpec(5, batch_norm=True), whole]
    yield image_launches(residual, dtype, Augmentation(rotation=1.0))
    if all_kinds:
        poolings = [ConvSpec(4), ResidualSpec(8, 2, tanh), largest, largest, mean]
        yield image_launches(poolings, dtype, Augmentation(shift=1))
        yield image_launches([largest], dtype, image_type="float64")
        wide = [ConvSpec(n_channels) for n_channels in (64, 64, 32, 16)]  # for the larger tiles
        yield image_launches(wide, dtype, image_type="float32", shape=(32, 32, 4), n=40)


def image_launches(specs, dtype, augmentation=None, *, image_type="uint8", shape=(18, 17, 3), n=8) -> list:
    """All launches of the calls that a fit and a prediction over images make."""
    from nbnet.cuda import conv_session, session
    from nbnet.epochs import EpochPlan, UpdateRule
    from nbnet.image_network import build_images
    from nbnet.images import augment_rule
    from nbnet.network import DenseSpec, Loss, Optimizer

    recorded, dtype = [], np.dtype(dtype)
    session.Queue.run = lambda queue, times=1: recorded.extend(queue.launches)
    network = build_images(shape, specs, [DenseSpec(3)])
    rule = augment_rule(augmentation, np.zeros(shape[2])) if augmentation else None
    params = np.zeros(network.n_params, dtype)
    gpu = conv_session.ConvSession(network, params, Loss.SOFTMAX_CROSS_ENTROPY, augment=rule)
    rows = conv_session.as_images(
        np.zeros((n, *shape), image_type), shape, np.zeros(shape[2]), np.ones(shape[2]), dtype
    )
    targets = conv_session.as_targets(np.zeros(n), None, np.ones(n), 3, dtype)
    gpu.prepare(UpdateRule(Optimizer.ADAM, n))
    gpu.train_epoch(rows, targets, EpochPlan(np.arange(n), np.zeros(1), np.zeros(1), 0))
    gpu.evaluate(rows, targets)
    gpu.predict(rows)
    gpu.transform(rows)
    return recorded


def text_networks(dtype: str, all_pairs: bool):
    """Pairs (precision, launches) of networks over documents: each pooling and each optimizer, or all pairs of them."""
    from nbnet.network import Loss, Optimizer, Pooling

    optimizers, poolings = (Optimizer.SGD, Optimizer.ADAGRAD, Optimizer.ADAM), (0, Pooling.MAX, Pooling.ATTENTION)
    for i, optimizer in enumerate(optimizers):
        yield dtype, text_launches(dtype, Loss.SOFTMAX_CROSS_ENTROPY, optimizer, poolings[i], is_tree=True)
        for pooling in poolings if all_pairs else poolings[i : i + 1]:
            yield dtype, text_launches(dtype, Loss.SIGMOID_CROSS_ENTROPY, optimizer, pooling)
            yield dtype, text_launches(dtype, Loss.SIGMOID_CROSS_ENTROPY, optimizer, pooling, deterministic=False)
    for pooling in (Pooling.SUM, Pooling.SQRTN):  # their tokens have weights of their own
        yield dtype, text_launches(dtype, Loss.SIGMOID_CROSS_ENTROPY, None, pooling)


def text_launches(dtype, loss, optimizer, pooling, *, is_tree=False, deterministic=True, n=8) -> list:
    """All launches of the calls that a fit on documents and a prediction make; without an optimizer of a prediction."""
    from nbnet.cpu.token_rows import Documents
    from nbnet.cuda import launch
    from nbnet.cuda import text_session as gpu
    from nbnet.epochs import EpochPlan, UpdateRule
    from nbnet.network import DenseSpec, EmbeddingSpec, Pooling, build, put_below, put_tree_on_top

    recorded = []
    launch.Queue.run = lambda queue, times=1: recorded.extend(queue.launches)
    top = put_tree_on_top(build(20, []), 20, 5) if is_tree else build(20, [DenseSpec(5)])
    network = put_below(top, EmbeddingSpec(30, 20, Pooling(pooling), 0.5))
    tree = gpu.huffman_tree(np.ones(5)) if is_tree else None
    session = gpu.open_session(network, np.zeros(network.n_params, dtype), loss, tree=tree, row_weights=np.ones(30))
    session.deterministic = deterministic
    documents = gpu.as_texts(Documents(np.zeros(n, np.int32), np.ones(n, np.uint8), np.arange(n + 1)))
    targets = gpu.as_targets(np.zeros(n), None, np.ones(n), 5, dtype, np.arange(n + 1))
    if optimizer is not None:
        session.prepare(UpdateRule(optimizer, n, nesterov=False))
        session.train_epoch(documents, targets, EpochPlan(np.arange(n), np.zeros(1), np.zeros(1), 0))
        session.evaluate(documents, targets)
    session.predict(documents)
    session.transform(documents)
    return recorded


# ---------------------------------------------------------------- compiling and inspecting


def compiled(kernel, signature, cc):
    """The kernel, up to the code of a virtual machine that is the same for all GPUs that launch it."""
    from numba.cuda import compiler

    bounds = kernel.targetoptions["launch_bounds"]
    options = dict(debug=None, lineinfo=False, device=False, fastmath=False, opt=None, abi="numba", abi_info=None)
    library, _ = compiler._compile_pyfunc_with_fixup(
        kernel.py_func, signature, cc=cc, launch_bounds=bounds, forceinline=False, lto=False, **options
    )
    return library


@functools.cache
def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit, from a package or the path."""
    for folder in sys.path:
        for path in Path(folder).glob(f"nvidia/*/bin/{name}"):
            return str(path)
    return shutil.which(name)


def assemble(ptx: str, cc, folder: Path, name: str) -> str:
    """What ptxas reports of the kernel, and its machine code where there is a disassembler."""
    path = folder / f"{re.sub('[^a-zA-Z0-9]+', '_', name)}.sm_{cc[0]}{cc[1]}"
    source, machine_code = path.with_suffix(path.suffix + ".ptx"), path.with_suffix(path.suffix + ".cubin")
    source.write_text(ptx)
    command = [find_tool("ptxas"), "-v", "-O3", f"-arch=sm_{cc[0]}{cc[1]}", str(source), "-o", str(machine_code)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[:500])
    listing = ""
    if ("product" in name or "128x" in name) and find_tool("nvdisasm"):
        listing = subprocess.run(
            [find_tool("nvdisasm"), "-c", str(machine_code)], capture_output=True, text=True, check=True
        ).stdout
    return f"{done.stderr}\n{ptx}\n{listing}"


def largest(pattern: str, code: str) -> int:
    """Largest of the numbers that a pattern finds; 0 for none."""
    return max((int(n) for n in re.findall(pattern, code)), default=0)


def summary(code: str) -> str:
    """Registers, shared memory, and the mix of the inner loop."""
    registers, shared = largest(REGISTERS, code), largest(r"(\d+) bytes smem", code)
    text = f"{registers:3d} registers {shared:6d} shared"
    n_all, n_products = inner_loop(code)
    return f"{text} loop {n_products}/{n_all}" if n_products > 16 else text


def inspect_code(kernel, name: str, code: str) -> list[str]:
    """What is wrong with a kernel."""
    faults = []
    if largest(r"(\d+) bytes spill", code):
        faults.append("spills registers")
    if largest(r"(\d+) bytes stack frame", code):
        faults.append("has a stack frame")
    n_double = sum(1 for line in code.splitlines() if re.match(r"\s+(@\S+ )?\w\S*\.f64\b", line) and not is_move(line))
    if n_double and "float32" in name:
        faults.append(f"{n_double} instructions in float64")
    threads, blocks = kernel.targetoptions["launch_bounds"]
    if largest(REGISTERS, code) * threads * blocks > REGISTERS_A_PROCESSOR:
        faults.append(f"too many registers for {blocks} blocks of {threads} threads")
    n_all, n_products = inner_loop(code)
    if "128x" in name and n_all and n_products < SHARE * n_all:
        faults.append(f"{n_products} of {n_all} instructions of the inner loop multiply")
    return faults


def is_move(line: str) -> bool:
    """Whether an instruction only brings a float64 from memory or rounds it: rows of X may be in float64."""
    return bool(re.search(r"\b(ld|st|mov|cvt)\.", line))


def inner_loop(code: str) -> tuple[int, int]:
    """Instructions, and multiplications among them, of the loop that multiplies most."""
    opcodes, labels, best = [], {}, (0, 0)
    for line in code.splitlines():
        if label := re.match(r"(\.L_\w+):", line.strip()):
            labels[label[1]] = len(opcodes)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)", line):
            opcodes.append(instruction[1])
            target = re.search(r"`\((\.L_\w+)\)", instruction[2])
            if target and target[1] in labels:
                loop = [opcode for opcode in opcodes[labels[target[1]] :] if opcode != "NOP"]
                n_products = sum(opcode.startswith(("FFMA", "DFMA")) for opcode in loop)
                if n_products * max(best[0], 1) > best[1] * len(loop):
                    best = len(loop), n_products
    return best


if __name__ == "__main__":
    sys.exit(main())
