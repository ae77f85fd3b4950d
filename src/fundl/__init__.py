"""fundl: the functional fundamentals of deep learning in JAX, every gradient derived by hand and proven."""
