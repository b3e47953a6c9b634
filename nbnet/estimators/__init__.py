"""The public estimators: validate, build, train, and give views of the result."""
