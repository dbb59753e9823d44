"""Random probe vectors that belong to an example: hashes of seed, example and probe number.

A generator that advances batch by batch ties an example's probe to the batch size, the order and
the number of processes. Here bit j of probe k of example i is a pure function of (seed, i, k, j),
evaluated on the device of the data, so that an estimate is the same, to rounding, for any way of
reading the same examples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geocollapse.numerics import accumulation_dtype

_ALL_BITS = (1 << 64) - 1


def _signed(constant: int) -> int:
    """Return a 64-bit constant as the signed integer that torch.int64 holds."""
    return constant - (1 << 64) if constant >> 63 else constant


# SplitMix64: the golden-ratio increment and the two multipliers of its finaliser (Steele, Lea,
# Flood, 2014).
_INCREMENT = _signed(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = _signed(0x94D049BB133111EB)


def random_bits(seed: int, indices: Tensor, n_probes: int, n_words: int) -> Tensor:
    """Hash (seed, example index, probe number, word number) to 64 random bits each.

    Cost: about ten integer operations a word, on the device of ``indices``; no state.
    Source: SplitMix64, Steele, Lea and Flood (2014), with one finaliser for each part of the key.

    Args:
        seed: any integer.
        indices: (n,) int64, the position of each example in its data set.
        n_probes: probes r for each example.
        n_words: 64-bit words for each probe.

    Returns:
        (n, r, n_words) int64; all 64 bits are random.

    Examples:
        >>> bits = random_bits(0, torch.tensor([3, 5]), n_probes=2, n_words=4)
        >>> bool((bits[1] == random_bits(0, torch.tensor([5]), 2, 4)[0]).all())
        True
    """
    key = _mix(
        _key(seed, indices)[:, None]
        + torch.arange(1, n_probes + 1, device=indices.device) * _INCREMENT
    )
    return _mix(key[:, :, None] + torch.arange(1, n_words + 1, device=indices.device) * _INCREMENT)


def rademacher(seed: int, indices: Tensor, n_probes: int, n_features: int) -> Tensor:
    """Independent signs: E[v v^T] = I, and v_j^2 = 1.

    Returns:
        (n, n_probes, n_features) of -1 and +1, int8.
    """
    words = random_bits(seed, indices, n_probes, -(-n_features // 64))
    # little-endian: bit j of a word is bit j % 8 of its octet j // 8
    octets = words.view(torch.uint8)[..., None]
    bits = (octets >> torch.arange(8, dtype=torch.uint8, device=words.device)).view(torch.int8) & 1
    return bits.mul_(-2).add_(1).flatten(2)[..., :n_features]


def aligned(seed: int, indices: Tensor, n_probes: int, basis: Tensor) -> Tensor:
    """Independent signs along k given directions, and along the axes of their complement.

        v = Q s + (I - Q Q^T) t,     s in {-1, 1}^k,  t in {-1, 1}^p,  Q^T Q = I

    E[v v^T] = I for any Q. One probe's variance, 2 (||M^T A M||_F^2 - sum_i (M^T A M)_ii^2) with M
    = [Q, I - Q Q^T], is small where the columns of Q are near the leading eigenvectors of A = J
    J^T, and 0 where they are all of them.

    Args:
        seed: any integer.
        indices: (n,) int64.
        n_probes: probes for each example.
        basis: Q (p, k), orthonormal columns, chosen without looking at the signs.

    Returns:
        (n, n_probes, p) float.
    """
    n_features, n_directions = basis.shape
    signs = rademacher(seed, indices, n_probes, n_features + n_directions).to(basis.dtype)
    t = signs[..., :n_features]
    s = signs[..., n_features:]
    return t + (s - t @ basis) @ basis.mT


def gaussian(seed: int, indices: Tensor, n_probes: int, n_features: int) -> Tensor:
    """Independent standard normal numbers, by the Box-Muller transform of hashed uniforms.

    Returns:
        (n, n_probes, n_features) in float64 (float32 where the device has none).
    """
    n_pairs = -(-n_features // 2)
    words = random_bits(seed, indices, n_probes, 2 * n_pairs)
    dtype = accumulation_dtype(words.device)
    n_bits = 53 if dtype is torch.float64 else 24
    uniform = (_shift_right(words, 64 - n_bits).to(dtype) + 0.5) * 2.0**-n_bits
    radius = torch.sqrt(-2.0 * torch.log(uniform[..., :n_pairs]))
    angle = 2.0 * math.pi * uniform[..., n_pairs:]
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)[
        ..., :n_features
    ]


def orthogonal(seed: int, indices: Tensor, n_probes: int, n_features: int) -> Tensor:
    """The first columns of a Haar orthogonal matrix, scaled by sqrt(p): exact when all p are taken.

    QR of a Gaussian matrix with the signs of R's diagonal made positive; column k depends only on
    columns up to k.
    Source: Mezzadri (2007), "How to generate random matrices from the classical compact groups".

    Returns:
        (n, n_probes, n_features) float; the rows of one example are orthogonal, each of length
        sqrt(p).

    Raises:
        ValueError: more probes than features.
    """
    if n_probes > n_features:
        raise ValueError(
            f"n_probes: expected at most n_features = {n_features} orthogonal probes, got "
            f"{n_probes}; do n_probes={n_features}, which is exact"
        )
    q, r = torch.linalg.qr(gaussian(seed, indices, n_probes, n_features).mT)
    sign = torch.sign(torch.diagonal(r, dim1=-2, dim2=-1))
    return math.sqrt(n_features) * (q * sign[:, None, :]).mT


def sampled_outputs(seed: int, indices: Tensor, n_probes: int, n_features: int) -> Tensor:
    """Coordinate vectors sqrt(p) e_j, j drawn uniformly without replacement for each example.

    Source: Munn, Dherin, Gonzalvo (2024), output sampling.

    Returns:
        (n, n_probes, n_features) float.

    Raises:
        ValueError: more probes than features.
    """
    if n_probes > n_features:
        raise ValueError(
            f"n_probes: expected at most n_features = {n_features} sampled outputs, got "
            f"{n_probes}; "
            f"do n_probes={n_features}, which is exact"
        )
    chosen = random_bits(seed, indices, 1, n_features)[:, 0].argsort(dim=1)[:, :n_probes]
    dtype = accumulation_dtype(indices.device)
    probes = torch.zeros(len(indices), n_probes, n_features, dtype=dtype, device=indices.device)
    return probes.scatter_(2, chosen[..., None], math.sqrt(n_features))


def sampled_entries(seed: int, indices: Tensor, n_entries: int, n_total: int) -> Tensor:
    """Draw K of N entries for each example uniformly without replacement, by smallest hash.

    Cost: N hashes for each example, one example at a time.

    Returns:
        (n, K) int64.

    Raises:
        ValueError: more than N entries.
    """
    if n_entries > n_total:
        raise ValueError(
            f"n_probes: expected at most the {n_total} entries of the Jacobian, got {n_entries}; "
            f"do estimator='exact', which takes them all"
        )
    hashes = (random_bits(seed, index[None], 1, n_total)[0, 0] for index in indices)
    return torch.stack([row.topk(n_entries, largest=False, sorted=False).indices for row in hashes])


def random_order(seed: int, indices: Tensor) -> Tensor:
    """Return ``indices`` (n,) in an order fixed by ``seed``: by the hash of the unused probe 0."""
    return indices[_mix(_key(seed, indices)).argsort(stable=True)]


def _key(seed: int, indices: Tensor) -> Tensor:
    """Return a 64-bit word for each example (n,); probe k starts from it plus k increments.

    Seed and index are offset, as the finaliser maps 0 to 0.
    """
    return _mix((indices + 1) * _INCREMENT + _signed(_mix_number((seed + 1) & _ALL_BITS)))


def _mix(z: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser, a bijection in which each input bit moves each output bit."""
    z = _shift_right(z, 30).bitwise_xor_(z).mul_(_MULTIPLIER_1)
    z = _shift_right(z, 27).bitwise_xor_(z).mul_(_MULTIPLIER_2)
    return _shift_right(z, 31).bitwise_xor_(z)


def _mix_number(z: int) -> int:
    """``_mix`` of one unsigned word."""
    z = ((z ^ (z >> 30)) * _MULTIPLIER_1) & _ALL_BITS
    z = ((z ^ (z >> 27)) * _MULTIPLIER_2) & _ALL_BITS
    return z ^ (z >> 31)


def _shift_right(z: Tensor, n_bits: int) -> Tensor:
    """Shift right with zeros: int64 has only the arithmetic shift, which copies the sign bit."""
    return (z >> n_bits).bitwise_and_((1 << (64 - n_bits)) - 1)
