"""Saving and loading: every dtype, every tree, and what does not fit is refused."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from fundl import checkpoint, mlp
from fundl._types import Linear


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "int8", "int64", "uint32", "bool"]
)
def test_dtype_and_bits_are_kept(tmp_path, dtype: str):
    x = jnp.asarray(np.arange(12).reshape(3, 4) % 7 - 1, dtype)
    checkpoint.save(tmp_path / "x.npz", {"x": x, "scalar": x[0, 0], "empty": x[:0]})
    again = checkpoint.load(tmp_path / "x.npz")
    assert again["x"].dtype == x.dtype
    assert np.asarray(again["x"]).tobytes() == np.asarray(x).tobytes()
    assert again["scalar"].shape == ()
    assert again["empty"].shape == (0, 4)


def test_trees_come_back_with_their_structure(tmp_path):
    params = mlp.init(jax.random.key(0), [3, 4, 2], activation="gelu", dtype=jnp.bfloat16)
    tree = (params, Linear(jnp.ones(3), jnp.zeros(())), [jax.random.key(7), None])
    checkpoint.save(tmp_path / "tree.npz", tree)
    again = checkpoint.load(tmp_path / "tree.npz", like=tree)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert again[0].activation == "gelu"
    assert again[0].layers[0].W.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(jax.random.normal(again[2][0], (3,)), jax.random.normal(jax.random.key(7), (3,)))


def test_names_in_the_file_are_paths_that_numpy_can_read(tmp_path):
    checkpoint.save(tmp_path / "p.npz", mlp.init(jax.random.key(0), [3, 2], dtype=jnp.float32))
    with np.load(tmp_path / "p.npz") as file:
        assert {"layers/0/W", "layers/0/b"} <= set(file.files)
        assert file["layers/0/W"].shape == (3, 2)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": jnp.ones(3)}, r"w is float64\(2,\) in the file, float64\(3,\)"),
        ({"w": jnp.ones(2, jnp.float32)}, r"w is float64\(2,\) in the file, float32\(2,\)"),
        ({"v": jnp.ones(2)}, "v is missing in the file; w is in the file but not in"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, like, message: str):
    checkpoint.save(tmp_path / "p.npz", {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path / "p.npz", like=like)


def test_what_is_no_array_or_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(TypeError, match="name is not an array of numbers"):
        checkpoint.save(tmp_path / "p.npz", {"name": np.array(["a", "b"])})
    with pytest.raises(TypeError, match="pair is not an array of numbers"):
        checkpoint.save(tmp_path / "p.npz", {"pair": np.zeros(2, [("a", "f4"), ("b", "f4")])})
    with pytest.raises(ValueError, match="rename that key"):
        checkpoint.save(tmp_path / "p.npz", {"__manifest__": jnp.ones(2)})
    assert not list(tmp_path.iterdir()), "a failed save leaves nothing behind"
    np.savez(tmp_path / "other.npz", w=np.ones(2))
    with pytest.raises(ValueError, match="no manifest"):
        checkpoint.load(tmp_path / "other.npz")


def test_float64_is_not_silently_rounded_where_x64_is_off(tmp_path):
    checkpoint.save(tmp_path / "p.npz", {"w": jnp.ones(2)})
    with jax.enable_x64(False), pytest.raises(TypeError, match="jax_enable_x64"):
        checkpoint.load(tmp_path / "p.npz")


def test_names_that_collide_are_refused_and_a_name_of_numpys_own_is_kept(tmp_path):
    with pytest.raises(ValueError, match="Two arrays of the tree have the path 'a/b'"):
        checkpoint.save(tmp_path / "p.npz", {"a/b": jnp.ones(1), "a": {"b": jnp.zeros(1)}})
    checkpoint.save(tmp_path / "p.npz", {"file": jnp.ones(1), "number": 0.5})
    assert checkpoint.load(tmp_path / "p.npz")["file"] == 1
    checkpoint.save(tmp_path / "p.npz", {"w": jnp.ones(1), "w.npy": jnp.zeros(2)})
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "p.npz")["w.npy"], [0, 0])


def test_the_order_of_bytes_is_the_machines(tmp_path):
    for dtype in (">f4", "<f4", ">i4", ">f8"):
        checkpoint.save(tmp_path / "p.npz", {"w": np.array([1, 2], dtype)})
        np.testing.assert_array_equal(checkpoint.load(tmp_path / "p.npz")["w"], [1, 2])
