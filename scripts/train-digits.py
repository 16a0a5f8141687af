#!/usr/bin/env python3
"""Makes data/digits: exports the UCI handwritten digits and trains the classifier that the demo quantizes.

    python3 -m venv target/venv-digits
    target/venv-digits/bin/pip install scikit-learn==1.9.1 numpy==2.4.6 safetensors==0.8.0
    OPENBLAS_NUM_THREADS=1 target/venv-digits/bin/python scripts/train-digits.py

    digits.safetensors       images u8 [1797, 64], values 0..16; labels u8 [1797]; held_out u8 [1797], 1 = never trained on
    classifier.safetensors   fc1.weight f32 [256, 256], fc1.bias [256], fc2 the same, fc3.weight [10, 256], fc3.bias [10]

The network's input is the image with every pixel repeated 2 x 2, in units of full ink:

    x[16 * r + c] = images[8 * (r / 2) + c / 2] / 16        integer divisions inside the brackets; r, c = 0..15

    x [256] -> fc1 -> ReLU -> fc2 -> ReLU -> fc3 -> 10 scores, the highest is the answer

256 inputs instead of 64 because the super-blocks of K-quants are 256 wide. Training moves each image by up to 2 of these
half pixels, so that the four copies of a pixel do not get the same weights. Everything random comes from one seed. Another
BLAS, thread count or numpy sums in another order and ends at slightly different weights: the files in the repository are the
ones that tests and documentation speak of.
"""

import pathlib
import platform

import numpy as np
import safetensors
import sklearn
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

SEED = 20261120
HELD_OUT = 360  # of 1797 images
WIDTHS = [256, 256, 256, 10]
EPOCHS = 120
BATCH = 64
RATE = 2e-3
DECAY = 0.02
MAX_SHIFT = 2
OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "digits"


def features(images):
    """[n, 64] u8 -> [n, 256] f32: pixels repeated 2 x 2, scaled to 0..1."""
    square = images.reshape(-1, 8, 8).repeat(2, axis=1).repeat(2, axis=2)
    return square.reshape(-1, 256).astype(np.float32) / np.float32(16)


def shifted(x, rng):
    """Each 16 x 16 picture moved by its own -MAX_SHIFT..MAX_SHIFT rows and columns, white coming in."""
    n = len(x)
    wide = np.pad(x.reshape(n, 16, 16), ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT)))
    rows, cols = rng.integers(0, 2 * MAX_SHIFT + 1, size=(2, n))
    span = np.arange(16)
    moved = wide[np.arange(n)[:, None, None], rows[:, None, None] + span[:, None], cols[:, None, None] + span]
    return moved.reshape(n, 256)


def forward(weights, biases, x):
    """The activations before each layer, and the scores."""
    inputs = []
    for i, (w, b) in enumerate(zip(weights, biases)):
        inputs.append(x)
        x = x @ w.T + b
        if i + 1 < len(weights):
            x = np.maximum(x, 0)
    return inputs, x


def gradients(weights, biases, x, labels):
    """Of the mean cross entropy: one array per weight, then one per bias."""
    inputs, scores = forward(weights, biases, x)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    delta = p / np.float32(len(labels))
    dw, db = [], []
    for i in reversed(range(len(weights))):
        dw.insert(0, delta.T @ inputs[i])
        db.insert(0, delta.sum(axis=0))
        if i > 0:
            delta = (delta @ weights[i]) * (inputs[i] > 0)
    return dw + db


def train(x, labels, rng):
    """Adam with decoupled decay of the weights (not of the biases), its rate falling to 0 along a cosine."""
    weights, biases = [], []
    for n_in, n_out in zip(WIDTHS, WIDTHS[1:]):
        weights.append((rng.standard_normal((n_out, n_in)) * np.sqrt(2 / n_in)).astype(np.float32))
        biases.append(np.zeros(n_out, np.float32))
    params = weights + biases
    mean = [np.zeros_like(p) for p in params]
    square = [np.zeros_like(p) for p in params]
    batches = -(-len(x) // BATCH)
    for step in range(EPOCHS * batches):
        if step % batches == 0:
            order = rng.permutation(len(x))
        batch = order[step % batches * BATCH :][:BATCH]
        rate = np.float32(RATE * 0.5 * (1 + np.cos(np.pi * step / (EPOCHS * batches))))
        for i, g in enumerate(gradients(weights, biases, shifted(x[batch], rng), labels[batch])):
            mean[i] += np.float32(0.1) * (g - mean[i])
            square[i] += np.float32(0.001) * (g * g - square[i])
            m = mean[i] / np.float32(1 - 0.9 ** (step + 1))
            v = square[i] / np.float32(1 - 0.999 ** (step + 1))
            if i < len(weights):
                params[i] *= 1 - rate * np.float32(DECAY)
            params[i] -= rate * m / (np.sqrt(v) + np.float32(1e-8))
    return weights, biases


def main():
    print(f"python {platform.python_version()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}, safetensors {safetensors.__version__}")
    data = load_digits()
    images, labels = data.data.astype(np.uint8), data.target.astype(np.uint8)
    assert (images == data.data).all() and images.shape == (1797, 64) and images.max() == 16

    rng = np.random.default_rng(SEED)
    held_out = np.zeros(len(images), np.uint8)
    held_out[rng.permutation(len(images))[:HELD_OUT]] = 1
    kept = held_out == 0

    x = features(images)
    weights, biases = train(x[kept], labels[kept], rng)
    for name, rows in [("trained on", kept), ("held out", ~kept)]:
        answers = forward(weights, biases, x[rows])[1].argmax(axis=1)
        right = int((answers == labels[rows]).sum())
        print(f"{name}: {right} of {rows.sum()} right, {100 * right / rows.sum():.2f} %")

    OUT.mkdir(parents=True, exist_ok=True)
    save_file(
        {"images": images, "labels": labels, "held_out": held_out},
        OUT / "digits.safetensors",
        metadata={"about": "UCI Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak), CC BY 4.0; see README.md"},
    )
    tensors = {}
    for i, (w, b) in enumerate(zip(weights, biases), 1):
        tensors[f"fc{i}.weight"], tensors[f"fc{i}.bias"] = w, b
    save_file(tensors, OUT / "classifier.safetensors", metadata={"about": "trained by scripts/train-digits.py; see README.md"})
    for name in ["digits", "classifier"]:
        print(f"{name}.safetensors: {(OUT / f'{name}.safetensors').stat().st_size} bytes")


if __name__ == "__main__":
    main()
