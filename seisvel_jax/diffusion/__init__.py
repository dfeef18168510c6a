"""Velocity by diffusion: preconditioned denoisers, samplers, and what they are conditioned on."""
