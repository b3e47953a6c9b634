"""Tiles: small matrices held in vector registers.

A tile of shape (m, n) has m rows of n vectors; a vector has as many elements as the host's registers hold (`lanes`).
Kernels are short loops on tiles:

    tile_zeros, tile_load, tile_store, tile_rank1     make, read, write, add an outer product
    row_load                                          read a vector and convert it
    one_load, one_store                               read or write one element
    + - * /, fma, maximum, where_positive, ...        elementwise; a float on one side is spread over the tile
    lanes_below, tile_sum, tile_max, tile_transpose   across lanes

Memory is an array and a position in elements, counted through the array's buffer, which must be contiguous.
Positions are not checked, except under NUMBA_BOUNDSCHECK=1, where a tile beyond its array raises IndexError. With
the JIT off, `simd_numpy` gives the same names on NumPy arrays.
"""

from __future__ import annotations

import operator

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.codegen import get_host_cpu_features
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from .. import scalar
from ..jit import BOUNDS_CHECKED, JIT_DISABLED


def _host_vector_bytes() -> int:
    """Bytes of the widest vector that code for this host keeps in one register: 64 AVX-512, 32 AVX2, 16 others.

    Asks the compiler, with the processor and features that Numba gives it: NUMBA_CPU_NAME and NUMBA_CPU_FEATURES count
    (to be another processor both are needed: a name alone keeps the host's features).
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name = config.CPU_NAME or llvm.get_host_cpu_name()
    features = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=name, features=features)
    probe = """
        define void @probe(ptr %x, ptr %y) {
          %a = load <16 x float>, ptr %x
          %b = load <16 x float>, ptr %y
          %c = fadd <16 x float> %a, %b
          store <16 x float> %c, ptr %x
          ret void
        }"""
    assembly = machine.emit_assembly(llvm.parse_assembly(probe))
    return 64 if "zmm" in assembly else 32 if "ymm" in assembly else 16


VECTOR_BYTES = _host_vector_bytes()
VECTOR_WIDTH = VECTOR_BYTES // 4  # float32 elements
# Rows of a product's tile, which has up to three vectors a row. AVX-512 and NEON have 32 registers: 8 x 3 sums, 3
# vectors of weights, 1 spread input; AVX2 and SSE have 16: 4 x 3 sums. Three vectors rather than two: fewer loads a
# multiplication, 20 % faster with two 512-bit FMA units.
TILE_ROWS = 8 if VECTOR_BYTES == 64 or "x86" not in llvm.get_default_triple() else 4
TILE_VECTORS = 3

I32, I64 = ir.IntType(32), ir.IntType(64)


# ---------------------------------------------------------------- types


class Shape(types.Type):
    """Compile-time shape of a tile, passed as a value so that one source serves several shapes."""

    def __init__(self, m: int, n: int):
        self.m, self.n = m, n
        super().__init__(name=f"Shape({m}, {n})")


class Tile(types.Type):
    """m rows of n vectors of `dtype` (types.float32 or types.float64)."""

    def __init__(self, m: int, n: int, dtype: types.Float):
        self.m, self.n, self.dtype = m, n, dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Tile({m}, {n}, {dtype})")

    @property
    def element(self) -> ir.Type:
        return ir.FloatType() if self.dtype is types.float32 else ir.DoubleType()

    @property
    def integer(self) -> ir.Type:
        """Integer of an element's width."""
        return ir.IntType(self.dtype.bitwidth)

    @property
    def vector(self) -> ir.Type:
        return ir.VectorType(self.element, self.lanes)

    @property
    def suffix(self) -> str:
        """Ending of the LLVM intrinsics on this type's vectors."""
        return f"v{self.lanes}f{self.dtype.bitwidth}"


register_model(Shape)(models.OpaqueModel)


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.ArrayType(fe_type.vector, fe_type.m * fe_type.n))


# ---------------------------------------------------------------- building blocks of the code generators


def _each(builder, tile, make):
    """The tile whose vector number k is ``make(k)``."""
    out = ir.Constant(ir.ArrayType(tile.vector, tile.m * tile.n), ir.Undefined)
    for k in range(tile.m * tile.n):
        out = builder.insert_value(out, make(k), k)
    return out


def _spread(builder, tile, value):
    """A vector with `value` in each lane."""
    undefined = ir.Constant(tile.vector, ir.Undefined)
    lanes = ir.Constant(ir.VectorType(I32, tile.lanes), [I32(0)] * tile.lanes)
    return builder.shuffle_vector(builder.insert_element(undefined, value, I32(0)), undefined, lanes)


def _converted(builder, fe_type, value, tile, target):
    """`value`, a number of `fe_type` or a vector of them, as `target`: the tile's element or vector."""
    if isinstance(fe_type, types.Integer):
        return builder.sitofp(value, target) if fe_type.signed else builder.uitofp(value, target)
    if fe_type.bitwidth > tile.dtype.bitwidth:
        return builder.fptrunc(value, target)
    if fe_type.bitwidth < tile.dtype.bitwidth:
        return builder.fpext(value, target)
    return value


def _vectors(builder, tile, fe_type, value):
    """Function from k to operand `value`'s vector: of a tile, or a number spread."""
    if isinstance(fe_type, Tile):
        return lambda k: builder.extract_value(value, k)
    vector = _spread(builder, tile, _converted(builder, fe_type, value, tile, tile.element))
    return lambda k: vector


def _call(builder, name, result, *args):
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def _data(context, builder, array_type, array):
    return context.make_array(array_type)(context, builder, array)


def _check(context, builder, struct, first, last):
    """Under NUMBA_BOUNDSCHECK: IndexError unless elements first ... last lie inside the array."""
    if not BOUNDS_CHECKED:
        return
    bad = builder.or_(builder.icmp_signed("<", first, I64(0)), builder.icmp_signed(">=", last, struct.nitems))
    with builder.if_then(bad, likely=False):
        context.call_conv.return_user_exc(builder, IndexError, ("tile beyond its array",))


def _address(builder, data, tile, position):
    return builder.bitcast(builder.gep(data, [position]), tile.vector.as_pointer())


def _position(builder, start, stride, i, j, lanes):
    return builder.add(builder.add(start, builder.mul(stride, I64(i))), I64(j * lanes))


def _load(builder, tile, data, position):
    value = builder.load(_address(builder, data, tile, position))
    value.align = tile.dtype.bitwidth // 8
    return value


# ---------------------------------------------------------------- shapes


@intrinsic(prefer_literal=True)
def shape(typingctx, m, n):
    """Shape of a tile: `m` rows of `n` vectors, both known when compiling."""
    return Shape(m.literal_value, n.literal_value)(m, n), lambda c, b, sig, args: c.get_dummy_value()


@intrinsic
def lanes(typingctx, array):
    """Elements of `array`'s type in one vector."""
    count = VECTOR_BYTES * 8 // array.dtype.bitwidth
    return types.int64(array), lambda c, b, sig, args: I64(count)


@intrinsic
def vectors_of(typingctx, shape):
    """Vectors in a row of a shape."""
    return types.int64(shape), lambda c, b, sig, args: I64(shape.n)


# ---------------------------------------------------------------- make, read, write


@intrinsic
def tile_zeros(typingctx, shape, array):
    """A tile of `array`'s type with zeros."""
    tile = Tile(shape.m, shape.n, array.dtype)

    def generate(context, builder, sig, args):
        return ir.Constant(ir.ArrayType(tile.vector, tile.m * tile.n), None)

    return tile(shape, array), generate


@intrinsic
def tile_load(typingctx, shape, array, start, stride):
    """Rows of `array` from position `start` on, `stride` elements apart (0: the same row m times)."""
    tile = Tile(shape.m, shape.n, array.dtype)

    def generate(context, builder, sig, args):
        struct = _data(context, builder, sig.args[1], args[1])
        last = builder.add(_position(builder, args[2], args[3], tile.m - 1, tile.n, tile.lanes), I64(-1))
        _check(context, builder, struct, args[2], last)
        return _each(
            builder,
            tile,
            lambda k: _load(
                builder, tile, struct.data, _position(builder, args[2], args[3], k // tile.n, k % tile.n, tile.lanes)
            ),
        )

    return tile(shape, array, types.int64, types.int64), generate


@intrinsic
def row_load(typingctx, array, start, like):
    """One vector of `like`'s type from as many elements of `array`, converted."""
    tile = Tile(1, 1, like.dtype)

    def generate(context, builder, sig, args):
        struct = _data(context, builder, sig.args[0], args[0])
        _check(context, builder, struct, args[1], builder.add(args[1], I64(tile.lanes - 1)))
        pointer = builder.gep(struct.data, [args[1]])
        source = ir.VectorType(pointer.type.pointee, tile.lanes)
        value = builder.load(builder.bitcast(pointer, source.as_pointer()))
        value.align = array.dtype.bitwidth // 8
        return _each(builder, tile, lambda k: _converted(builder, array.dtype, value, tile, tile.vector))

    return tile(array, types.int64, like), generate


@intrinsic
def one_load(typingctx, array, position):
    """``array[position]`` without the three instructions that let a negative position count from the end."""

    def generate(context, builder, sig, args):
        struct = _data(context, builder, sig.args[0], args[0])
        _check(context, builder, struct, args[1], args[1])
        return builder.load(builder.gep(struct.data, [args[1]]))

    return array.dtype(array, types.int64), generate


@intrinsic
def one_store(typingctx, value, array, position):
    """``array[position] = value``, likewise."""

    def generate(context, builder, sig, args):
        struct = _data(context, builder, sig.args[1], args[1])
        _check(context, builder, struct, args[2], args[2])
        builder.store(args[0], builder.gep(struct.data, [args[2]]))
        return context.get_dummy_value()

    return types.void(array.dtype, array, types.int64), generate


@intrinsic
def prefetch(typingctx, array, position):
    """Asks for the cache line of one element, which need not exist, and does not wait for it."""

    def generate(context, builder, sig, args):
        struct = _data(context, builder, sig.args[0], args[0])
        pointer = builder.bitcast(builder.gep(struct.data, [args[1]]), ir.IntType(8).as_pointer())
        how = (ir.IntType(32)(n) for n in (0, 3, 1))  # to read, into the first cache, data
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, *how)
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@intrinsic
def tile_store(typingctx, tile, array, start, stride):
    """Writes a tile into `array` from position `start` on, rows `stride` elements apart."""

    def generate(context, builder, sig, args):
        struct = _data(context, builder, sig.args[1], args[1])
        last = builder.add(_position(builder, args[2], args[3], tile.m - 1, tile.n, tile.lanes), I64(-1))
        _check(context, builder, struct, args[2], last)
        for k in range(tile.m * tile.n):
            position = _position(builder, args[2], args[3], k // tile.n, k % tile.n, tile.lanes)
            store = builder.store(builder.extract_value(args[0], k), _address(builder, struct.data, tile, position))
            store.align = tile.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(tile, array, types.int64, types.int64), generate


@intrinsic
def tile_rank1(typingctx, tile, x, x_start, x_stride, w, w_start):
    """``tile[i, :] + x[x_start + i * x_stride] * w[w_start : w_start + width]``: one step of a product over k.

    `x` may be of another type than `w` and the tile: its numbers are converted first.
    """

    def generate(context, builder, sig, args):
        x_struct = _data(context, builder, sig.args[1], args[1])
        w_struct = _data(context, builder, sig.args[4], args[4])
        _check(context, builder, w_struct, args[5], builder.add(args[5], I64(tile.n * tile.lanes - 1)))
        last = builder.add(args[2], builder.mul(args[3], I64(tile.m - 1)))
        _check(context, builder, x_struct, args[2], last)
        row = [_load(builder, tile, w_struct.data, builder.add(args[5], I64(j * tile.lanes))) for j in range(tile.n)]
        out = args[0]
        for i in range(tile.m):
            value = builder.load(builder.gep(x_struct.data, [builder.add(args[2], builder.mul(args[3], I64(i)))]))
            value = _spread(builder, tile, _converted(builder, x.dtype, value, tile, tile.element))
            for j in range(tile.n):
                k = i * tile.n + j
                total = builder.extract_value(out, k)
                out = builder.insert_value(
                    out, _call(builder, f"llvm.fma.{tile.suffix}", tile.vector, value, row[j], total), k
                )
        return out

    return tile(tile, x, types.int64, types.int64, w, types.int64), generate


# ---------------------------------------------------------------- across lanes


@intrinsic
def lanes_below(typingctx, tile, count, fill):
    """Keeps the first `count` elements of each row, sets the others to `fill`."""

    def generate(context, builder, sig, args):
        limit_type = ir.VectorType(tile.integer, tile.lanes)
        undefined = ir.Constant(limit_type, ir.Undefined)
        limit = args[1] if tile.integer.width == 64 else builder.trunc(args[1], tile.integer)
        limit = builder.shuffle_vector(
            builder.insert_element(undefined, limit, I32(0)),
            undefined,
            ir.Constant(ir.VectorType(I32, tile.lanes), [I32(0)] * tile.lanes),
        )
        filler = _vectors(builder, tile, sig.args[2], args[2])

        def keep(k):
            first = k % tile.n * tile.lanes
            index = ir.Constant(limit_type, [tile.integer(first + lane) for lane in range(tile.lanes)])
            below = builder.icmp_signed("<", index, limit)
            return builder.select(below, builder.extract_value(args[0], k), filler(k))

        return _each(builder, tile, keep)

    return tile(tile, types.int64, fill), generate


def _reduction(name, combine, doc):
    def typer(typingctx, tile):
        def generate(context, builder, sig, args):
            vector = builder.extract_value(args[0], 0)
            for k in range(1, tile.m * tile.n):
                vector = combine(builder, vector, builder.extract_value(args[0], k))
            step = tile.lanes // 2
            undefined = ir.Constant(tile.vector, ir.Undefined)
            while step:
                turned = ir.Constant(
                    ir.VectorType(I32, tile.lanes), [I32((lane + step) % tile.lanes) for lane in range(tile.lanes)]
                )
                vector = combine(builder, vector, builder.shuffle_vector(vector, undefined, turned))
                step //= 2
            return builder.extract_element(vector, I32(0))

        return tile.dtype(tile), generate

    typer.__name__ = typer.__qualname__ = name
    typer.__doc__ = doc
    return intrinsic(typer)


def _larger(builder, x, y):
    return builder.select(builder.fcmp_ordered("<", x, y), y, x)


tile_sum = _reduction("tile_sum", lambda b, x, y: b.fadd(x, y), "Sum of all elements, by halves.")
tile_max = _reduction("tile_max", _larger, "Largest element.")


@intrinsic
def tile_transpose(typingctx, tile):
    """Transpose of a square tile: `lanes` rows of one vector."""

    def generate(context, builder, sig, args):
        rows = [builder.extract_value(args[0], k) for k in range(tile.lanes)]
        step = 1
        while step < tile.lanes:  # exchange blocks of step x step across the diagonal
            width = tile.lanes
            low = [I32(j if not j & step else width + j - step) for j in range(width)]
            high = [I32(j + step if not j & step else width + j) for j in range(width)]
            low, high = (ir.Constant(ir.VectorType(I32, width), indices) for indices in (low, high))
            for i in range(width):
                if not i & step:
                    x, y = rows[i], rows[i + step]
                    rows[i], rows[i + step] = builder.shuffle_vector(x, y, low), builder.shuffle_vector(x, y, high)
            step *= 2
        return _each(builder, tile, lambda k: rows[k])

    return tile(tile), generate


@intrinsic
def square_shape(typingctx, array):
    """Shape of the square tile of `array`'s type, for `tile_transpose`."""
    square = Shape(VECTOR_BYTES * 8 // array.dtype.bitwidth, 1)
    return square(array), lambda c, b, sig, args: c.get_dummy_value()


# ---------------------------------------------------------------- elementwise: the primitives of `nbnet.scalar`


def _has_tile(*operands) -> bool:
    return any(isinstance(t, Tile) for t in operands)


def _define(function, combine) -> None:
    """Gives `function` its meaning on tiles: ``combine(builder, tile, *vectors)`` on each vector.

    At least one operand is a tile; numbers are spread.
    """

    class TileFunction(AbstractTemplate):
        def generic(self, args, kws):
            if _has_tile(*args) and all(isinstance(t, Tile | types.Float | types.Integer) for t in args):
                return signature(next(t for t in args if isinstance(t, Tile)), *args)

    infer_global(function)(TileFunction)

    def lower(context, builder, sig, args):
        tile = sig.return_type
        operands = [_vectors(builder, tile, t, v) for t, v in zip(sig.args, args, strict=True)]
        return _each(builder, tile, lambda k: combine(builder, tile, *(operand(k) for operand in operands)))

    if function in OPERATORS:  # types.Any would take operators over for every other type
        for left, right in ((Tile, Tile), (Tile, types.Number), (types.Number, Tile)):
            lower_builtin(function, left, right)(lower)
    else:
        lower_builtin(function, types.VarArg(types.Any))(lower)


def _exponent_bits(builder, tile, n):
    """The bits of 2**n: the biased exponent, shifted behind the mantissa."""
    mantissa, bias = (23, 127) if tile.dtype is types.float32 else (52, 1023)
    integers = ir.VectorType(tile.integer, tile.lanes)
    biased = builder.add(builder.fptosi(n, integers), ir.Constant(integers, [tile.integer(bias)] * tile.lanes))
    shifted = builder.shl(biased, ir.Constant(integers, [tile.integer(mantissa)] * tile.lanes))
    return builder.bitcast(shifted, tile.vector)


OPERATORS = (operator.add, operator.sub, operator.mul, operator.truediv)

_define(operator.add, lambda b, t, x, y: b.fadd(x, y))
_define(operator.sub, lambda b, t, x, y: b.fsub(x, y))
_define(operator.mul, lambda b, t, x, y: b.fmul(x, y))
_define(operator.truediv, lambda b, t, x, y: b.fdiv(x, y))
_define(scalar.fma, lambda b, t, x, y, z: _call(b, f"llvm.fma.{t.suffix}", t.vector, x, y, z))
_define(scalar.maximum, lambda b, t, x, y: b.select(b.fcmp_ordered("<", x, y), y, x))
_define(scalar.minimum, lambda b, t, x, y: b.select(b.fcmp_ordered(">", x, y), y, x))
_define(
    scalar.where_positive,
    lambda b, t, c, x, y: b.select(b.fcmp_ordered(">", c, ir.Constant(t.vector, None)), x, y),
)
_define(scalar.square_root, lambda b, t, x: _call(b, f"llvm.sqrt.{t.suffix}", t.vector, x))
_define(scalar.nearest_integer, lambda b, t, x: _call(b, f"llvm.rint.{t.suffix}", t.vector, x))
_define(scalar.power_of_two, _exponent_bits)


@infer_global(scalar.is_double)
class _IsDouble(AbstractTemplate):
    def generic(self, args, kws):
        if _has_tile(*args):
            return signature(types.boolean, *args)


@lower_builtin(scalar.is_double, Tile)
def _lower_is_double(context, builder, sig, args):
    return ir.IntType(1)(sig.args[0].dtype is types.float64)


if JIT_DISABLED:
    from .simd_numpy import *  # noqa: F403
