"""Making an ONNX graph, and predicting with it beside nbnet."""

from .bench_inspection import fitted


class Onnx:
    """Seconds of `to_onnx`; of predictions by nbnet and by onnxruntime with as many threads as cores."""

    params = [["table", "images"], [1, 1000]]
    param_names = ["model", "rows"]
    timeout = 300

    def setup(self, kind, n_rows):
        import onnxruntime

        import nbnet

        self.to_onnx = nbnet.to_onnx
        self.model, rows = fitted(kind)
        self.rows = rows[:n_rows]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_cores()
        graph = self.to_onnx(self.model).SerializeToString()
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = {"X": self.rows if kind == "table" else self.rows[..., None]}
        self.time_predict(kind, n_rows)
        self.time_onnxruntime(kind, n_rows)

    def time_to_onnx(self, kind, n_rows):
        self.to_onnx(self.model)

    def time_predict(self, kind, n_rows):
        self.model.predict_proba(self.rows)

    def time_onnxruntime(self, kind, n_rows):
        self.session.run(None, self.inputs)


def n_cores() -> int:
    """Cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
