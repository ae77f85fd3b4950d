"""Many fits against loops over scikit-learn, which must reach the same optima.

    python -m benchmarks.bench_sweep [--size breast_cancer,ridge] [--json FILE]

Each rival runs at the loosest tolerance at which every fit has f - f* <= 1e-10 f*; so does fundl.
"""

import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import options, stopwatch
from fundl import datasets, sweep

TOL = 1e-12  # of fundl, relative to f


def standardised(X: np.ndarray) -> np.ndarray:
    X = np.asarray(X, float)
    return (X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1)


def objective(X: np.ndarray, y: np.ndarray, s: np.ndarray, l2: float, w: np.ndarray, b: Any) -> float:
    """Of one fit, y (n,) in {0, 1} or integer classes with w (d, k)."""
    z = X @ w + b
    loss = np.logaddexp(0, z) - y * z if w.ndim == 1 else _softmax_loss(z, y)
    return float(np.sum(s * loss) + l2 / 2 * np.sum(w * w))


def _softmax_loss(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    m = z.max(1, keepdims=True)
    return np.log(np.exp(z - m).sum(1)) + m[:, 0] - z[np.arange(len(y)), y.astype(int)]


def loop(X: np.ndarray, Y: np.ndarray, S: np.ndarray, l2: np.ndarray, solver: str, tol: float) -> Callable[[], Any]:
    """What a user of scikit-learn writes: one fit after another, the penalties from large to small."""
    from sklearn.linear_model import LogisticRegression

    def run() -> list[Any]:
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for i, j, c in np.ndindex(len(l2), len(S), Y.shape[1]):
                model = LogisticRegression(C=1 / l2[i], solver=solver, tol=tol, max_iter=10000)
                rows = S[j] > 0
                model.fit(X[rows], Y[rows, c], sample_weight=S[j][rows])
                found.append((model.coef_[0], model.intercept_[0]))
        return found

    return run


def binary(name: str, X: np.ndarray, Y: np.ndarray, S: np.ndarray, held: Any, l2: np.ndarray, repeats: int) -> Any:
    """Penalties x replicates x targets."""
    data = [jnp.asarray(v) for v in (X, Y, l2)]
    extra = {"folds": jnp.asarray(held)} if held is not None else {"weights": jnp.asarray(S)}
    train = 1.0 * ~held if held is not None else S
    calls: dict[str, Any] = {
        "fundl": lambda: sweep.logistic(data[0], data[1], l2=data[2], tol=TOL, **extra),
        "fundl, to rounding": lambda: sweep.logistic(data[0], data[1], l2=data[2], **extra),
        "newton-cholesky": loop(X, Y, train, l2, "newton-cholesky", 1e-7),
        "lbfgs": loop(X, Y, train, l2, "lbfgs", 1e-9),
    }
    found = {}
    for who in calls:
        if who != "lbfgs":
            found[who] = calls[who]()
    best = found["fundl, to rounding"]
    lanes = list(np.ndindex(best.code.shape))
    f_star = np.asarray(best.certificate.objective)

    def excess(fits: Any) -> float:
        worst = 0.0
        for a, (i, j, c) in enumerate(lanes):
            w, b = fits[a]
            worst = max(worst, objective(X, Y[:, c], train[j], l2[i], w, b) / f_star[i, j, c] - 1)
        return worst

    def of(s: Any) -> Any:
        w, b = np.asarray(s.params.w), np.asarray(s.params.b)
        return [(w[i], b[i]) for i in lanes]

    reached = {who: excess(fits if isinstance(fits, list) else of(fits)) for who, fits in found.items()}
    # lbfgs is slower on a sample of the fits; the whole loop would take minutes.
    few = slice(0, None, max(1, len(l2) // 2))
    sample = {
        who: loop(X, Y[:, :2], train[:4], l2[few], solver, tol)
        for who, solver, tol in (("newton-cholesky", "newton-cholesky", 1e-7), ("lbfgs", "lbfgs", 1e-9))
    }
    few_times = stopwatch.interleave(sample, repeats=1)
    del calls["lbfgs"]
    times = stopwatch.interleave(calls, repeats=repeats, progress=name)
    slower = stopwatch.ratio(few_times["lbfgs"], few_times["newton-cholesky"])
    return rows(name, len(lanes), times, reached, "newton-cholesky", {"lbfgs over newton-cholesky": slower})


def rows(name: str, fits: int, times: Any, reached: Any, rival: str, more: Any = None) -> dict[str, Any]:
    """One entry of the results: each candidate's time, its ratio to the rival, and the error it reached."""
    return {
        "problem": name,
        "fits": fits,
        "rival": rival,
        **(more or {}),
        "results": [
            {
                "name": who,
                "seconds": t.median,
                "spread": t.spread,
                "first": t.first,
                "ratio": stopwatch.ratio(t, times[rival]),
                "error": reached[who],
            }
            for who, t in times.items()
        ],
    }


def breast_cancer(repeats: int, quick: bool = False) -> Any:
    """20 penalties x 50 bootstrap replicates."""
    data = datasets.breast_cancer()
    n = len(data.y)
    S = np.asarray(sweep.bootstrap(n, 4 if quick else 50, jax.random.key(0)), float)
    Y = (np.asarray(data.y) == 1).astype(float)[:, None]
    l2 = np.geomspace(1e3, 1e-2, 3 if quick else 20)
    return binary("breast cancer, bootstrap", standardised(data.X), Y, S, None, l2, repeats)


def one_vs_rest(repeats: int, quick: bool = False) -> Any:
    """10 digits x 10 penalties x 5 folds."""
    data = datasets.digits()
    Y = (np.asarray(data.y)[:, None] == np.arange(10)).astype(float)
    held = np.asarray(sweep.folds(len(Y), 5, jax.random.key(0)))
    X = np.asarray(data.X, float) / 16
    l2 = np.geomspace(1e2, 1e-2, 2 if quick else 10)
    return binary("digits, one against the rest", X, Y, np.ones((1, len(Y))), held, l2, repeats)


def multinomial(repeats: int, quick: bool = False) -> Any:
    """10 penalties x 5 folds and all rows, against LogisticRegressionCV."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import PredefinedSplit

    data = datasets.digits()
    X, y = np.asarray(data.X, float) / 16, np.asarray(data.y)
    held = np.asarray(sweep.folds(len(y), 5, jax.random.key(0)))
    l2 = np.geomspace(1e2, 1e-2, 2 if quick else 10)
    arrays = jnp.asarray(X), jnp.asarray(y), jnp.asarray(l2), jnp.asarray(held)

    def ours(tol: float = TOL) -> Any:
        return sweep.softmax(arrays[0], arrays[1], num_classes=10, l2=arrays[2], folds=arrays[3], tol=tol)

    def cv(solver: str, tol: float) -> Callable[[], Any]:
        def run() -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = LogisticRegressionCV(
                    Cs=1 / l2, cv=PredefinedSplit(held.argmax(0)), solver=solver, tol=tol, max_iter=20000,
                    scoring="neg_log_loss", use_legacy_attributes=True, l1_ratios=(0.0,),
                )  # fmt: skip
                return model.fit(X, y)

        return run

    calls = {"fundl": ours, "newton-cg": cv("newton-cg", 1e-9), "lbfgs": cv("lbfgs", 1e-9)}
    found, once = {}, {}
    for who, call in calls.items():
        start = time.perf_counter()
        found[who] = call()
        once[who] = time.perf_counter() - start
    star = ours(0.0)
    f_star = np.asarray(star.certificate.objective)[:, :, 0]
    reached = {"fundl": float(np.max(np.asarray(found["fundl"].certificate.objective)[:, :, 0] / f_star - 1))}
    for who in ("newton-cg", "lbfgs"):
        paths = next(iter(found[who].coefs_paths_.values()))  # (folds, Cs, ..., d + 1)
        reached[who] = _worst_of_paths(found[who].coefs_paths_, paths, X, y, held, l2, f_star)
    rival, slower = sorted(("newton-cg", "lbfgs"), key=lambda who: once[who])
    del calls[slower]  # minutes a call on some machines
    times = stopwatch.interleave(calls, repeats=repeats, progress="multinomial")
    more = {f"{slower} over {rival}, one call": once[slower] / once[rival]}
    return rows("digits, multinomial, 5-fold path", 6 * len(l2), times, reached, rival, more)


def _worst_of_paths(paths: Any, one: Any, X: Any, y: Any, held: Any, l2: Any, f_star: Any) -> float:
    all_paths = np.stack([np.asarray(v) for _, v in sorted(paths.items())], axis=-2)
    worst = 0.0
    for j, i in np.ndindex(len(held), len(l2)):
        theta = all_paths[j, i].reshape(-1, X.shape[1] + 1)
        f = objective(X, y, 1.0 * ~held[j], l2[i], theta[:, :-1].T, theta[:, -1])
        worst = max(worst, f / f_star[i, j] - 1)
    return worst


def ridge(repeats: int, quick: bool = False) -> Any:
    """100 penalties with leave-one-out, against RidgeCV."""
    from sklearn.linear_model import RidgeCV

    out = []
    rng = np.random.default_rng(0)
    digits = datasets.digits()
    wide = rng.normal(size=(10000, 100))
    problems = {
        "ridge, digits": (np.asarray(digits.X, float) / 16, np.asarray(digits.y, float)),
        "ridge, 10000 x 100": (wide, wide @ rng.normal(size=100) + 5 * rng.normal(size=10000)),
    }
    l2 = np.geomspace(1e4, 1e-2, 100)
    for name, (X, y) in list(problems.items())[: 1 if quick else None]:
        arrays = jnp.asarray(X), jnp.asarray(y), jnp.asarray(l2)
        model = RidgeCV(alphas=l2, store_cv_results=True)
        calls = {
            "fundl": lambda arrays=arrays: sweep.linear(*arrays[:2], l2=arrays[2], leave_one_out=True),
            "RidgeCV": lambda model=model, X=X, y=y: model.fit(X, y),
        }
        ours, theirs = calls["fundl"](), calls["RidgeCV"]()
        loss = np.asarray(theirs.cv_results_).mean(axis=0)
        difference = float(np.max(np.abs(np.asarray(ours.scores.loss)[:, 0, 0] / loss - 1)))
        assert l2[int(ours.best[0])] == theirs.alpha_
        times = stopwatch.interleave(calls, repeats=repeats, progress=name)
        out.append(rows(name, 100, times, {"fundl": difference, "RidgeCV": 0.0}, "RidgeCV"))
    return out


PROBLEMS = {"breast_cancer": breast_cancer, "one_vs_rest": one_vs_rest, "multinomial": multinomial, "ridge": ridge}


def main() -> None:
    args = options.parser(__doc__, repeats=3).parse_args()
    options.no_rivals(args)
    chosen = options.sizes(args, list(PROBLEMS), ["breast_cancer"])
    jax.config.update("jax_enable_x64", True)
    before = json.loads(args.json.read_text()) if args.json and args.json.exists() else {"problems": []}
    kept = {p["problem"]: p for p in before["problems"]}
    for name in chosen:
        found = PROBLEMS[name](1 if args.quick else args.repeats, args.quick)
        for p in found if isinstance(found, list) else [found]:
            kept[p["problem"]] = p
            print(f"{p['problem']}, {p['fits']} fits, against {p['rival']}")
            lines = [(r["name"], r["seconds"], r["first"], r["ratio"], r["error"]) for r in p["results"]]
            print(stopwatch.table(lines, ("", "seconds", "first call", "ratio", "largest error")))
        if args.json:  # at once: a long run may be cut short
            result = {
                "question": "many fits in one program",
                "machine": stopwatch.machine(),
                "problems": list(kept.values()),
            }
            args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
