"""Networks from shot gathers to velocity: the attention network, InversionNet as baseline, and ensembles of both."""
