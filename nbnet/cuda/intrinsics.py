"""What kernels need and numba-cuda's language lacks: 16-byte loads and stores, and the primitives of `nbnet.scalar`.

All code that builds LLVM instructions is here. Under a simulator (NUMBA_ENABLE_CUDASIM=1) plain Python of the same
meaning stands in for it.
"""

from __future__ import annotations

import numpy as np

from .jit import SIMULATED

if SIMULATED:

    def load4(vector, i):
        assert vector.is_aligned(i), f"16-byte load from element {i}"
        return vector[i], vector[i + 1], vector[i + 2], vector[i + 3]

    def store4(vector, i, v0, v1, v2, v3):
        assert vector.is_aligned(i), f"16-byte store to element {i}"
        vector[i], vector[i + 1], vector[i + 2], vector[i + 3] = v0, v1, v2, v3

    def fma(x, y, z):
        return x * y + z

    def square_root(x):
        return np.sqrt(x)

    def nearest_integer(x):
        return np.rint(x)

    def power_of_two(n):
        return np.ldexp(type(n)(1), int(n) if np.isfinite(n) else 0)

else:
    from llvmlite import ir
    from numba.cuda import cgutils, types
    from numba.cuda.extending import intrinsic
    from numba.cuda.typing import signature

    def _pointer4(context, builder, array_type, array, index):
        """Address of four elements, and the type of the four."""
        pointer = builder.gep(context.make_array(array_type)(context, builder, array).data, [index], inbounds=True)
        four = ir.VectorType(pointer.type.pointee, 4)
        return builder.bitcast(pointer, four.as_pointer(pointer.type.addrspace)), four

    @intrinsic
    def load4(typingctx, vector, i):
        """(vector[i], ..., vector[i + 3]) in loads of 16 bytes; i is a multiple of 4, and below 2**31 if of 32 bits."""

        def generate(context, builder, sig, args):
            pointer, _ = _pointer4(context, builder, sig.args[0], *args)
            loaded = builder.load(pointer)
            loaded.align = 16
            elements = [builder.extract_element(loaded, ir.IntType(32)(k)) for k in range(4)]
            return cgutils.pack_array(builder, elements)

        return signature(types.UniTuple(vector.dtype, 4), vector, i), generate

    @intrinsic
    def store4(typingctx, vector, i, v0, v1, v2, v3):
        """``vector[i : i + 4] = v0, v1, v2, v3`` in stores of 16 bytes; i is as for `load4`."""

        def generate(context, builder, sig, args):
            pointer, four = _pointer4(context, builder, sig.args[0], *args[:2])
            value = ir.Constant(four, ir.Undefined)
            for k in range(4):
                value = builder.insert_element(value, args[2 + k], ir.IntType(32)(k))
            builder.store(value, pointer).align = 16
            return context.get_dummy_value()

        return signature(types.void, vector, i, *[vector.dtype] * 4), generate

    def _calls(name_single, name_double):
        """An intrinsic of one or more numbers of one precision that calls a function of LLVM or of libdevice."""

        def declare(context, builder, sig, args):
            single = sig.return_type == types.float32
            real = ir.FloatType() if single else ir.DoubleType()
            name = name_single if single else name_double
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(real, [real] * len(args)), name)
            return builder.call(function, args)

        return declare

    @intrinsic
    def fma(typingctx, x, y, z):
        """``x * y + z`` with one rounding; y and z take the precision of x."""
        return signature(x, x, x, x), _calls("llvm.fma.f32", "llvm.fma.f64")

    @intrinsic
    def square_root(typingctx, x):
        """Square root, rounded correctly."""
        return signature(x, x), _calls("__nv_sqrtf", "__nv_sqrt")

    @intrinsic
    def nearest_integer(typingctx, x):
        """Nearest integer, as a float; halves go to the even one."""
        return signature(x, x), _calls("__nv_rintf", "__nv_rint")

    @intrinsic
    def power_of_two(typingctx, n):
        """``2**n`` for integers `n` held as floats: the biased exponent, shifted behind the mantissa."""

        def generate(context, builder, sig, args):
            single = sig.return_type == types.float32
            integer, real = (ir.IntType(32), ir.FloatType()) if single else (ir.IntType(64), ir.DoubleType())
            mantissa, bias = (23, 127) if single else (52, 1023)
            biased = builder.add(builder.fptosi(args[0], integer), integer(bias))
            return builder.bitcast(builder.shl(biased, integer(mantissa)), real)

        return signature(n, n), generate
