"""The three products of a dense layer, in GFLOP/s, and the limit of the core."""


class Products:
    """GFLOP/s of each product, and of NumPy's BLAS on the same shape."""

    params = [[(256, 1000, 512), (256, 512, 512), (200, 784, 100)], ["float32", "float64"]]
    param_names = ["n_rows, n_in, n_out", "dtype"]
    unit = "GFLOP/s"
    timeout = 120

    def setup(self, shape, dtype):
        from . import products

        self.rates = products.measure(*shape, dtype)

    def track_forward(self, shape, dtype):
        return self.rates["forward"]

    def track_input_gradient(self, shape, dtype):
        return self.rates["input gradient"]

    def track_weight_gradient(self, shape, dtype):
        return self.rates["weight gradient"]

    def track_forward_blas(self, shape, dtype):
        return self.rates["forward, BLAS"]

    def track_fma_peak(self, shape, dtype):
        return self.rates["FMA peak"]


for _name in dir(Products):
    if _name.startswith("track_"):
        getattr(Products, _name).unit = Products.unit
