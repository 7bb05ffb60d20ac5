"""The clients' part: an ordinary Flower ClientApp. Where its data are it learns from the SuperNode's configuration."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def probabilities(weights, x):
    scores = x @ weights[:-1] + weights[-1]
    scores = np.exp(scores - scores.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)


def data(context: Context, part: str):
    with np.load(f"{context.node_config['data']}/{part}.npz") as file:
        return file["x"], file["y"]


@app.train()
def train(message: Message, context: Context) -> Message:
    [weights] = message.content["arrays"].to_numpy_ndarrays()
    x, y = data(context, "train")
    for _ in range(20):
        slope = probabilities(weights, x)
        slope[np.arange(len(y)), y] -= 1
        weights = weights - context.run_config["learning-rate"] * np.concatenate([x.T @ slope, slope.sum(0)[None]]) / len(y)
    said = MetricRecord({"num-examples": len(y)})
    return Message(RecordDict({"arrays": ArrayRecord([weights]), "metrics": said}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    [weights] = message.content["arrays"].to_numpy_ndarrays()
    x, y = data(context, "test")
    right = (probabilities(weights, x).argmax(1) == y).mean()
    return Message(RecordDict({"metrics": MetricRecord({"accuracy": float(right), "num-examples": len(y)})}), reply_to=message)
