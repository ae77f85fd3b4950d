"""Strict settings for the whole test run: eight CPU devices, no implicit dtype or rank promotion."""

import gc
import importlib.metadata
import os

# Must be set before jax starts its backend; the mesh tests need several devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

# For programs that are large and run once: the same program after all of XLA's passes, its code less polished. Tests of
# rounding, of memory and of operation counts keep XLA's own settings, as all tests do without this variable.
if os.environ.get("FUNDL_QUICK_CODE"):
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones end at a flag that they do not know
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many small objects that live: to look through them all so often took a tenth of its time.
gc.set_threshold(50_000, 10, 20)
