"""Saving and loading any pytree of arrays in numpy's own .npz format, with every dtype kept."""

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["load", "save"]

_MANIFEST = "__manifest__"


def save(path: str | os.PathLike[str], tree: Any) -> None:
    """Write the arrays of `tree` (parameters, a Fit, a descent State) to one .npz file.

    Each array is stored under its path in the tree, such as `layers/0/W`. bfloat16 and random keys, which numpy's
    format does not know, are stored as their bits beside their type. The file appears whole or not at all.
    Errors: TypeError for a leaf that is not an array of numbers, ValueError for two of one path and for the key
    `__manifest__`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/params.npz", {"w": jnp.ones(2, jnp.bfloat16), "b": jnp.zeros(())})
    ...     again = load(f"{folder}/params.npz")
    >>> print(again["w"].dtype, again["w"], again["b"])
    bfloat16 [1 1] 0.0
    """
    arrays: dict[str, Any] = {}
    manifest: dict[str, dict[str, str]] = {}
    for name, leaf in _named_leaves(tree):
        if name == _MANIFEST:
            raise ValueError(f"{name!r} is what the file's own table of contents is called; rename that key.")
        if name in arrays:
            raise ValueError(f"Two arrays of the tree have the path {name!r}; rename a key that contains a slash.")
        if isinstance(leaf, bool | int | float):
            leaf = jnp.asarray(leaf)  # in the dtype that jax gives it, so that it can be read back
        entry: dict[str, str] = {}
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            entry["key"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if array.dtype.kind not in "biufcV" or (
            array.dtype.kind == "V" and not jnp.issubdtype(array.dtype, jnp.number)
        ):
            raise TypeError(f"{name} is not an array of numbers: {type(leaf).__name__} of dtype {array.dtype}.")
        entry["dtype"] = array.dtype.name
        if array.dtype.kind == "V" or array.dtype.name not in np.sctypeDict:
            array = array.view(np.dtype(f"u{array.dtype.itemsize}"))  # bfloat16 and its kin, as bits
        arrays[name], manifest[name] = array, entry
    arrays[_MANIFEST] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        # As np.savez does, which takes no array of the name "file".
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def load(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Read what `save` wrote: a tree like `like`, or a dictionary from path to array when `like` is None.

    With `like` (for example fresh parameters of the same sizes) names, shapes and dtypes must agree.
    Errors: ValueError naming each difference; TypeError where float64 is stored and jax_enable_x64 is off.
    """
    with np.load(path, allow_pickle=False) as file:
        if _MANIFEST not in file:
            raise ValueError(f"{path} was not written by fundl.checkpoint.save: it has no manifest.")
        manifest = json.loads(file[_MANIFEST].tobytes())
        # With its ending, as without one a key "w.npy" is taken for the file of "w".
        arrays = {name: _restore(name, file[f"{name}.npy"], entry) for name, entry in manifest.items()}
    if like is None:
        return arrays
    expected = dict(_named_leaves(like))
    problems = [f"{name} is missing in the file" for name in expected if name not in arrays]
    problems += [f"{name} is in the file but not in `like`" for name in arrays if name not in expected]
    for name, leaf in expected.items():
        if name in arrays:
            stored, wanted = arrays[name], jnp.asarray(leaf)
            if (stored.shape, stored.dtype) != (wanted.shape, wanted.dtype):
                problems.append(
                    f"{name} is {stored.dtype}{stored.shape} in the file, {wanted.dtype}{wanted.shape} in `like`"
                )
    if problems:
        raise ValueError(f"{path} does not fit: " + "; ".join(problems) + ".")
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in expected])


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/") or "value", leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _restore(name: str, array: np.ndarray, entry: dict[str, str]) -> jax.Array:
    dtype = jnp.dtype(entry["dtype"])
    found = jnp.asarray(array.view(dtype) if array.dtype != dtype else array)
    if found.dtype != dtype:
        raise TypeError(f"{name} is stored as {dtype}, which jax holds only with jax_enable_x64 on.")
    return jax.random.wrap_key_data(found, impl=entry["key"]) if "key" in entry else found
