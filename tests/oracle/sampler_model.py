#!/usr/bin/env python3
"""The sampler once more, by definition: a full sort and the C library's exp. Prints the sequences that
tests/engine/sampler_test.cpp expects."""
import math
import struct

MASK = 2**64 - 1


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


class MersenneTwister64:
    def __init__(self, seed):
        self.state = [seed & MASK]
        for i in range(1, 312):
            last = self.state[-1]
            self.state.append((6364136223846793005 * (last ^ (last >> 62)) + i) & MASK)
        self.at = 312

    def __call__(self):
        if self.at == 312:
            for i in range(312):
                x = (self.state[i] & 0xFFFFFFFF80000000) | (self.state[(i + 1) % 312] & 0x7FFFFFFF)
                self.state[i] = self.state[(i + 156) % 312] ^ (x >> 1) ^ (0xB5026F5AA96619E9 if x & 1 else 0)
            self.at = 0
        x = self.state[self.at]
        self.at += 1
        x ^= (x >> 29) & 0x5555555555555555
        x ^= (x << 17) & 0x71D67FFFEDA60000
        x ^= (x << 37) & 0xFFF7EEE000000000
        return x ^ (x >> 43)


def sample(logits, history, draw, temperature, top_k=0, top_p=1.0, min_p=0.0, penalty=1.0, last_n=64):
    logits = list(logits)
    for i in set(history[-last_n:]):
        logits[i] = f32(logits[i] / f32(penalty) if logits[i] > 0 else logits[i] * f32(penalty))
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if top_k > 0:
        order = order[:top_k]
    weight = {i: math.exp((logits[i] - logits[order[0]]) / f32(temperature)) for i in order}
    total = sum(weight.values())
    kept, mass = [], 0.0
    for i in order:
        kept.append(i)
        mass += weight[i]
        if top_p < 1 and mass >= f32(top_p) * total:
            break
    kept = sorted(i for i in kept if weight[i] >= f32(min_p))
    left = (draw() >> 11) * 2.0**-53 * sum(weight[i] for i in kept)
    for i in kept:
        if left < weight[i]:
            return i
        left -= weight[i]
    return kept[-1]


def sequence(seed, **parameters):
    draw = MersenneTwister64(seed)
    history = []
    for step in range(32):
        logits = [((i * 7919 + step * 104729) % 1009) / 64 - 4 for i in range(200)]
        history.append(sample(logits, history, draw, **parameters))
    return history


def main():
    check = MersenneTwister64(5489)
    for _ in range(9999):
        check()
    assert check() == 9981545732273789042  # the C++ standard's value for the 10000th call, [rand.predef]
    print(sequence(1234, temperature=1.0))
    print(sequence(42, temperature=0.8, top_k=40, top_p=0.9, min_p=0.02, penalty=1.3, last_n=8))
    print(sequence(2**63 + 5, temperature=2.5, top_p=0.95))


if __name__ == "__main__":
    main()
