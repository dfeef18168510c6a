"""Full-waveform inversion: misfits, priors, optimisers. Needs the wave solver, and no network."""
