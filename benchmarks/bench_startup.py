"""Start of a process: import, first fit with an empty cache and with a filled one."""

import os

from . import startup


def track_import():
    """Seconds of ``import nbnet`` above ``import sklearn, numba``."""
    seconds = startup.import_seconds(dict(os.environ), n_repeats=3)
    return seconds["sklearn, numba, nbnet"] - seconds["sklearn, numba"]


track_import.unit = "s"
track_import.timeout = 120


class FirstFit:
    """Seconds of the first fit and predict of a process, in each dtype."""

    params = ["float32", "float64"]
    param_names = ["dtype"]
    timeout = 300

    def setup_cache(self):
        return {dtype: startup.first_fit_seconds(dict(os.environ), dtype) for dtype in self.params}

    def track_cold(self, seconds, dtype):
        return seconds[dtype]["cold"]

    def track_cached(self, seconds, dtype):
        return seconds[dtype]["cached"]


FirstFit.setup_cache.timeout = 300
FirstFit.track_cold.unit = FirstFit.track_cached.unit = "s"
