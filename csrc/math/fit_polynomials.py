"""Fits the polynomials of polynomials.h: `python csrc/math/fit_polynomials.py > csrc/math/polynomials.h`.

Each polynomial minimizes the largest relative (or, where said, absolute) error on its interval, by the Remez exchange
algorithm in 60-digit arithmetic, and its coefficients are then rounded to the type. Needs mpmath (torch brings it).
"""

import struct
from collections.abc import Callable, Sequence

import mpmath as mp

mp.mp.dps = 60
#: pi/2 rounded to the type, as csrc/math/elementary.h has it.
HALF_PI = {"float": float.fromhex("0x1.921fb6p+0"), "double": float.fromhex("0x1.921fb54442d18p+0")}
SMALLEST_ANGLE = mp.mpf(10) ** -4  # below it the rounding of pi/2 is all the error there is
TINY = mp.mpf(10) ** -40  # keeps a weight from being zero
GRID_POINTS = 1500
EXCHANGES = 12


def remez(
    target: Callable[[mp.mpf], mp.mpf], weight: Callable[[mp.mpf], mp.mpf], low: float, high: float, degree: int
) -> tuple[list[mp.mpf], mp.mpf]:
    """Coefficients c_0..c_degree that minimize max |weight(x) (target(x) - sum c_k x^k)|, and that maximum."""
    low, high, count = mp.mpf(low), mp.mpf(high), degree + 2
    chebyshev = [mp.cos(mp.pi * (count - 1 - k) / (count - 1)) for k in range(count)]
    nodes = [(low + high) / 2 + (high - low) / 2 * c for c in chebyshev]
    grid = [low + (high - low) * (1 - mp.cos(mp.pi * k / GRID_POINTS)) / 2 for k in range(GRID_POINTS + 1)]
    samples = [(x, target(x), weight(x)) for x in grid]
    coefficients, worst = [], mp.mpf(0)
    for _ in range(EXCHANGES):
        matrix = mp.matrix(count, count)
        right = mp.matrix(count, 1)
        for row, x in enumerate(nodes):
            for k in range(degree + 1):
                matrix[row, k] = x**k
            matrix[row, degree + 1] = (-1) ** row / weight(x)
            right[row] = target(x)
        solution = mp.lu_solve(matrix, right)
        coefficients = [solution[k] for k in range(degree + 1)]
        errors = [w * (t - mp.polyval(coefficients[::-1], x)) for x, t, w in samples]
        worst = max(abs(e) for e in errors)
        extrema = alternating_extrema(grid, errors)
        if len(extrema) < count:
            break
        while len(extrema) > count:  # drop the smaller end
            extrema.pop(0 if abs(extrema[0][1]) < abs(extrema[-1][1]) else -1)
        nodes = [x for x, _ in extrema]
    return coefficients, worst


def alternating_extrema(grid: Sequence[mp.mpf], errors: Sequence[mp.mpf]) -> list[tuple[mp.mpf, mp.mpf]]:
    """The largest error of every run of one sign."""
    extrema: list[tuple[mp.mpf, mp.mpf]] = []
    for x, error in zip(grid, errors, strict=True):
        if extrema and (extrema[-1][1] >= 0) == (error >= 0):
            if abs(error) > abs(extrema[-1][1]):
                extrema[-1] = (x, error)
        else:
            extrema.append((x, error))
    return extrema


def log_direct(f: mp.mpf) -> mp.mpf:
    """P in log(1 + f) = f + f^2 P(f)."""
    return mp.mpf(-1) / 2 if abs(f) < mp.mpf(10) ** -25 else (mp.log1p(f) - f) / f**2


def log_direct_weight(f: mp.mpf) -> mp.mpf:
    return TINY if f == 0 else abs(f**2 / mp.log1p(f))


def log_atanh(z: mp.mpf) -> mp.mpf:
    """Q in log((1 + s) / (1 - s)) = 2 s + s z Q(z), z = s^2."""
    s = mp.sqrt(z)
    return mp.mpf(2) / 3 if z < mp.mpf(10) ** -20 else (2 * mp.atanh(s) - 2 * s) / (s * z)


def sine(half_pi: mp.mpf) -> Callable[[mp.mpf], mp.mpf]:
    """S in sin(pi/2 t) = half_pi t + t z S(z), z = t^2, with half_pi as the type rounds pi/2."""
    return lambda z: (mp.sin(mp.pi / 2 * mp.sqrt(z)) / mp.sqrt(z) - half_pi) / z


def cosine(z: mp.mpf) -> mp.mpf:
    """C in cos(pi/2 t) = 1 + z C(z), z = t^2."""
    t = mp.sqrt(z)
    return -(mp.pi**2) / 8 if z < mp.mpf(10) ** -20 else (mp.cos(mp.pi / 2 * t) - 1) / z


def exponential(r: mp.mpf) -> mp.mpf:
    """E in exp(r) = 1 + r + r^2 E(r)."""
    return mp.mpf(1) / 2 if abs(r) < mp.mpf(10) ** -15 else (mp.expm1(r) - r) / r**2


def literal(value: mp.mpf, kind: str) -> str:
    if kind == "float":
        (rounded,) = struct.unpack("f", struct.pack("f", float(value)))
        return trim(float(rounded).hex()) + "f"
    return trim(float(value).hex())


def trim(hexadecimal: str) -> str:
    mantissa, exponent = hexadecimal.split("p")
    return mantissa.rstrip("0").rstrip(".") + "p" + exponent


def emit(name: str, kind: str, what: str, fit: tuple[list[mp.mpf], mp.mpf]) -> None:
    coefficients, error = fit
    print(f"// {what}; largest error 2^{float(mp.log(error, 2)):.1f} before rounding")
    print(f"#define ALD_EXT_{name}_{kind.upper()} \\")
    print("    " + ", \\\n    ".join(literal(c, kind) for c in coefficients) + "\n")


def main() -> None:
    root_half, root_two = mp.sqrt(mp.mpf(1) / 2), mp.sqrt(2)
    largest_s = ((root_two - 1) / (root_two + 1)) ** 2
    half_log_two = mp.log(2) / 2
    print("// Written by fit_polynomials.py. Coefficients of ascending powers.")
    print("// clang-format off")
    print("#pragma once\n")
    log_text = "P in log(1 + f) = f + f^2 P(f), sqrt(1/2) <= 1 + f <= sqrt(2), relative"
    emit("LOG", "float", log_text, remez(log_direct, log_direct_weight, root_half - 1, root_two - 1, 7))
    atanh_text = "Q in log(1 + f) = 2 s + s z Q(z), s = f / (2 + f), z = s^2, relative"
    emit("LOG", "double", atanh_text, remez(log_atanh, lambda z: z / 2 + TINY, 0, largest_s, 6))
    for kind, sine_degree, cosine_degree in (("float", 2, 3), ("double", 6, 6)):
        half_pi = mp.mpf(HALF_PI[kind])
        text = "S in sin(pi/2 t) = half_pi t + t^3 S(t^2), |t| <= 1/2, absolute"
        emit("SINE", kind, text, remez(sine(half_pi), lambda z: z**1.5, SMALLEST_ANGLE, 0.25, sine_degree))
        text = "C in cos(pi/2 t) = 1 + t^2 C(t^2), |t| <= 1/2, absolute"
        emit("COSINE", kind, text, remez(cosine, lambda z: z + TINY, 0, 0.25, cosine_degree))
    for kind, degree in (("float", 4), ("double", 9)):
        text = "E in exp(r) = 1 + r + r^2 E(r), |r| <= log(2) / 2, relative"
        fit = remez(exponential, lambda r: r**2 / mp.exp(r) + TINY, -half_log_two, half_log_two, degree)
        emit("EXP", kind, text, fit)
    print("// clang-format on")


if __name__ == "__main__":
    main()
