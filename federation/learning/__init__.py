"""Federated learning, without its transport: model files, aggregation, choice of clients and combiners, secure sums."""
