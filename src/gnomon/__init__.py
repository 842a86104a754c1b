"""gnomon: from raw feedback to a model that is safe to ship."""

__version__ = "0.1.0"
