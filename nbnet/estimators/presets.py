"""Settings for a kind of data, found by measurement; each is visible in the estimator's `get_params`."""

# Holzmueller, Grinsztajn, Steinwart, Better by default: strong pre-tuned MLPs and boosted trees on tabular data, 2024
TABULAR = {
    "hidden_layer_sizes": (256, 256),
    "activation": "silu",
    "solver": "adamw",
    "alpha": 0.01,
    "learning_rate": "one_cycle",
    "learning_rate_init": 0.003,
    "max_iter": 100,
    "early_stopping": True,
    "n_iter_no_change": 100,
    "dropout": 0.1,
    "input_scaling": "robust",
}
