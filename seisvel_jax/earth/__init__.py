"""Random velocity models that are drawn on the device, under jit and vmap."""
