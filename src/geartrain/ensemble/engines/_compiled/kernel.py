"""Several steps of many small perceptrons: forward, backward and update of one network at a time, in the cache.

A network's points are worked through in tiles, so that the activations of a tile, the weights, their gradient and the
optimizer's state stay in the cache from step to step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from geartrain.ensemble.engines._compiled.numbers import compiled, exp, tanh
from geartrain.ensemble.engines._compiled.products import multiply, multiply_first_transposed

TILE = 64
IDENTITY, RELU, LEAKY_RELU, TANH, SIGMOID, SILU, GELU = range(7)
CROSS_ENTROPY, SQUARED_ERROR = range(2)
SGD, ADAM, ADAMW, RMSPROP = range(4)


# One loop per kind: with the choice inside, none of them would become vector instructions.


@compiled
def _activate(kind: int, slope: float, z: Any, y: Any) -> None:
    one, half, zero = z.dtype.type(1), z.dtype.type(0.5), z.dtype.type(0)
    s = z.dtype.type(slope)
    if kind == RELU:
        for i in range(len(z)):
            y[i] = zero if z[i] < zero else z[i]
    elif kind == LEAKY_RELU:
        for i in range(len(z)):
            y[i] = z[i] if z[i] > zero else z[i] * s
    elif kind == TANH:
        for i in range(len(z)):
            y[i] = tanh(z[i])
    elif kind == SIGMOID:
        for i in range(len(z)):
            y[i] = half * tanh(half * z[i]) + half
    elif kind == SILU:
        for i in range(len(z)):
            y[i] = z[i] / (one + exp(-z[i]))
    else:
        for i in range(len(z)):
            y[i] = half * z[i] * (one + z.dtype.type(math.erf(z[i] * 0.7071067811865476)))


@compiled
def _pull_back(kind: int, slope: float, z: Any, y: Any, g: Any) -> None:
    one, half, zero = z.dtype.type(1), z.dtype.type(0.5), z.dtype.type(0)
    s = z.dtype.type(slope)
    if kind == RELU:
        for i in range(len(z)):
            g[i] = g[i] if z[i] > zero else zero
    elif kind == LEAKY_RELU:
        for i in range(len(z)):
            g[i] = g[i] if z[i] > zero else g[i] * s
    elif kind == TANH:
        for i in range(len(z)):
            g[i] = g[i] * (one - y[i] * y[i])
    elif kind == SIGMOID:
        for i in range(len(z)):
            g[i] = g[i] * (y[i] * (one - y[i]))
    elif kind == SILU:
        for i in range(len(z)):
            t = one / (one + exp(-z[i]))
            g[i] = g[i] * (t * (one + z[i] * (one - t)))
    else:
        for i in range(len(z)):
            t = half * (one + z.dtype.type(math.erf(z[i] * 0.7071067811865476)))
            g[i] = g[i] * (t + z[i] * z.dtype.type(0.3989422804014327) * exp(-half * z[i] * z[i]))


@compiled
def _cross_entropy(z: Any, labels: Any, weights: Any, ignore: int) -> float:
    """Sum of the weighted losses of a tile; the outputs are overwritten by the gradient."""
    loss = 0.0
    zero = z.dtype.type(0)
    width = z.shape[1]
    for p in range(z.shape[0]):
        top = z[p, 0]
        for j in range(1, width):
            top = z[p, j] if z[p, j] > top or z[p, j] != z[p, j] else top
        for j in range(width):
            z[p, j] -= top
        if labels[p] != ignore and weights[p] != zero:
            loss -= float(weights[p]) * float(z[p, labels[p]])
    flat = z.reshape(-1)
    for i in range(len(flat)):
        flat[i] = exp(flat[i])
    for p in range(z.shape[0]):
        if labels[p] == ignore or weights[p] == zero:
            z[p, :] = zero
            continue
        total = zero
        for j in range(width):
            total += z[p, j]
        loss += float(weights[p]) * math.log(total)
        scale = weights[p] / total
        for j in range(width):
            z[p, j] *= scale
        z[p, labels[p]] -= weights[p]
    return loss


@compiled
def _squared_error(z: Any, targets: Any, weights: Any) -> float:
    loss = 0.0
    two = z.dtype.type(2)
    for p in range(z.shape[0]):
        part = z.dtype.type(0)
        for j in range(z.shape[1]):
            d = z[p, j] - targets[p, j]
            part += d * d
            z[p, j] = two * weights[p] * d
        loss += float(weights[p] * part)
    return loss


@compiled
def _transpose(there: Any, here: Any) -> None:
    for i in range(here.shape[0]):
        for j in range(here.shape[1]):
            there[j, i] = here[i, j]


@compiled
def _spread(z: Any, w: Any, start: int) -> None:
    """Every row becomes the bias that starts there; zeros if there is none."""
    zero = z.dtype.type(0)
    for p in range(z.shape[0]):
        for j in range(z.shape[1]):
            z[p, j] = w[start + j] if start >= 0 else zero


@compiled
def _add_rows(total: Any, rows: Any) -> None:
    p = 0
    while p + 4 <= rows.shape[0]:
        for j in range(len(total)):
            total[j] += (rows[p, j] + rows[p + 1, j]) + (rows[p + 2, j] + rows[p + 3, j])
        p += 4
    while p < rows.shape[0]:
        for j in range(len(total)):
            total[j] += rows[p, j]
        p += 1


@compiled
def _pass(net: Any, kinds: Any, slopes: Any, w: Any, wt: Any, g: Any, gt: Any, room: Any, x: Any, labels: Any,
          targets: Any, weights: Any, loss_kind: int, ignore: int) -> float:  # fmt: skip
    """Loss of one network at the points x, shape (points, in); its gradient is left in g."""
    layers = net.shape[0]
    for layer in range(layers):
        n_in, n_out, ow, ot = net[layer, 0], net[layer, 1], net[layer, 2], net[layer, 4]
        _transpose(
            wt[ot : ot + n_in * n_out].reshape(n_in, n_out), w[ow : ow + n_in * n_out].reshape(n_out, n_in)
        )
    g[:] = 0
    gt[:] = 0
    loss = 0.0
    for start in range(0, x.shape[0], TILE):
        end = min(start + TILE, x.shape[0])
        points = end - start
        for layer in range(layers):
            n_in, n_out, ow, ob, ot = (
                net[layer, 0],
                net[layer, 1],
                net[layer, 2],
                net[layer, 3],
                net[layer, 4],
            )
            oz, oy = net[layer, 5], net[layer, 6]
            z = room[oz : oz + points * n_out].reshape(points, n_out)
            _spread(z, w, ob)
            a = x[start:end]
            if layer > 0:
                oa = net[layer - 1, 6]
                a = room[oa : oa + points * n_in].reshape(points, n_in)
            multiply(
                z,
                a,
                wt[ot : ot + n_in * n_out].reshape(n_in, n_out),
                w[ow : ow + n_in * n_out].reshape(n_out, n_in),
            )
            if kinds[layer] != IDENTITY:
                _activate(kinds[layer], slopes[layer], z.reshape(-1), room[oy : oy + points * n_out])
        oy = net[layers - 1, 6]
        y = room[oy : oy + points * net[layers - 1, 1]].reshape(points, net[layers - 1, 1])
        if loss_kind == CROSS_ENTROPY:
            loss += _cross_entropy(y, labels[start:end], weights[start:end], ignore)
        else:
            loss += _squared_error(y, targets[start:end], weights[start:end])
        d = y
        for layer in range(layers - 1, -1, -1):
            n_in, n_out, ow, ob, ot = (
                net[layer, 0],
                net[layer, 1],
                net[layer, 2],
                net[layer, 3],
                net[layer, 4],
            )
            oz, oy = net[layer, 5], net[layer, 6]
            if kinds[layer] != IDENTITY and layer < layers - 1:
                flat = d.reshape(-1)
                _pull_back(
                    kinds[layer], slopes[layer], room[oz : oz + len(flat)], room[oy : oy + len(flat)], flat
                )
            if ob >= 0:
                _add_rows(g[ob : ob + n_out], d)
            a = x[start:end]
            if layer > 0:
                oa = net[layer - 1, 6]
                a = room[oa : oa + points * n_in].reshape(points, n_in)
            if n_in >= 8 or n_in >= n_out:
                multiply_first_transposed(g[ow : ow + n_in * n_out].reshape(n_out, n_in), d, a)
            else:  # few inputs: the transposed gradient has the longer rows
                multiply_first_transposed(gt[ot : ot + n_in * n_out].reshape(n_in, n_out), a, d)
            if layer > 0:
                od = net[layer - 1, 7]
                below = room[od : od + points * n_in].reshape(points, n_in)
                _spread(below, w, -1)
                multiply(
                    below, d, w[ow : ow + n_in * n_out].reshape(n_out, n_in),
                    wt[ot : ot + n_in * n_out].reshape(n_in, n_out),
                )  # fmt: skip
                d = below
    for layer in range(layers):
        n_in, n_out, ow, ot = net[layer, 0], net[layer, 1], net[layer, 2], net[layer, 4]
        if not (n_in >= 8 or n_in >= n_out):
            _transpose(
                g[ow : ow + n_in * n_out].reshape(n_out, n_in),
                gt[ot : ot + n_in * n_out].reshape(n_in, n_out),
            )
    return loss


@compiled
def _update(kind: int, w: Any, g: Any, first: Any, second: Any, options: Any, lr: float, taken: int) -> None:
    """One step of `torch.optim`'s rules; options: weight decay, momentum, Nesterov, beta1, beta2, eps, alpha."""
    real = w.dtype.type
    decay, rate = real(options[0]), real(lr)
    if kind == SGD or kind == RMSPROP:
        momentum, eps, alpha = real(options[1]), real(options[5]), real(options[6])
        rest = real(1 - options[6])
        nesterov, heavy = options[2] != 0, len(first) > 0
        for i in range(len(w)):
            d = g[i] + decay * w[i]
            if kind == RMSPROP:
                second[i] = alpha * second[i] + rest * (d * d)
                d = d / (math.sqrt(second[i]) + eps)
            if heavy:
                first[i] = momentum * first[i] + d
                d = d + momentum * first[i] if nesterov else first[i]
            w[i] -= rate * d
        return
    beta1, beta2 = options[3], options[4]
    root = math.sqrt(1 - beta2**taken)
    size, eps, unroot = real(lr / (1 - beta1**taken)), real(options[5]), real(root)
    rest1, b2, rest2 = real(1 - beta1), real(beta2), real(1 - beta2)
    shrink = real(1 - lr * options[0]) if kind == ADAMW else real(1)
    coupled = real(0) if kind == ADAMW else decay
    for i in range(len(w)):
        wi = w[i] * shrink
        d = g[i] + coupled * wi
        m = first[i] + rest1 * (d - first[i])
        v = b2 * second[i] + rest2 * (d * d)
        first[i] = m
        second[i] = v
        w[i] = wi - size * (m / (math.sqrt(v) / unroot + eps))


@compiled
def train(net: Any, kinds: Any, slopes: Any, params: Any, first: Any, second: Any, mask: Any, clip: Any, below: Any,
          options: Any, taken: Any, lr: Any, x: Any, labels: Any, targets: Any, weights: Any, loss_kind: int,
          ignore: int, kind: int, room_size: int, alive: Any, losses: Any) -> None:  # fmt: skip
    """Steps of some members, one member after the other.

    Args:
        net: Per layer: widths in and out, where weight and bias lie in a row of params (-1: no bias), where the
            transposed weight lies, and where z, y and the gradient of y lie in the scratch.
        kinds: Activation behind each layer.
        slopes: Its option.
        params: Shape (members, params).
        first: Momentum or first moment; no columns if there is none.
        second: Second moment; likewise.
        mask: Of the gradient; no columns if there is none.
        clip: Largest norm of the gradient, per member.
        below: Loss at which a member stops.
        options: See `_update`; (members, 7), float64.
        taken: Updates taken before, per member.
        lr: Shape (steps, members), float64.
        x: Shape (steps or 1, members or 1, points, in).
        labels: Shape (steps or 1, members or 1, points), or of no points.
        targets: Shape (steps or 1, members or 1, points, out), or of no points.
        weights: Shape (members or 1, points).
        loss_kind: Which loss.
        ignore: The label that does not count.
        kind: Which optimizer.
        room_size: Scratch, in numbers.
        alive: Which members still train; changed.
        losses: Shape (steps, members), to be filled.
    """
    size = params.shape[1]
    g, gt, wt = np.empty_like(params[0]), np.empty_like(params[0]), np.empty_like(params[0])
    room = np.empty(room_size, params.dtype)
    for i in range(params.shape[0]):
        w = params[i]
        m, v = first[i % max(1, first.shape[0])], second[i % max(1, second.shape[0])]
        own = weights[i % weights.shape[0]]
        counted = own.copy()
        for k in range(lr.shape[0]):
            if not alive[i]:
                losses[k, i] = np.nan
                continue
            xs = x[k % x.shape[0]]
            ls, ts = labels[k % labels.shape[0]], targets[k % targets.shape[0]]
            label = ls[i % ls.shape[0]]
            if loss_kind == CROSS_ENTROPY:
                valid = 0
                for p in range(len(label)):
                    valid += label[p] != ignore
                scale = len(label) / valid if valid > 0 else np.nan
                for p in range(len(label)):
                    counted[p] = own[p] if weights.shape[0] > 1 else own[p] * scale
            loss = _pass(net, kinds, slopes, w, wt, g, gt, room, xs[i % xs.shape[0]], label, ts[i % ts.shape[0]],
                         counted, loss_kind, ignore)  # fmt: skip
            losses[k, i] = loss
            if not math.isfinite(loss) or loss <= below[i]:
                alive[i] = False
                continue
            if mask.shape[1] > 0:
                for j in range(size):
                    g[j] *= mask[i, j]
            if clip[i] < np.inf:
                norm = 0.0
                for j in range(size):
                    norm += float(g[j]) * float(g[j])
                factor = g.dtype.type(min(1.0, clip[i] / (math.sqrt(norm) + 1e-6)))
                for j in range(size):
                    g[j] *= factor
            _update(kind, w, g, m, v, options[i], lr[k, i], taken[i] + k + 1)
