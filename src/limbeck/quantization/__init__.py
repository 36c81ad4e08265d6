"""Numbers of few bits: the arithmetic, the ranges that are clipped to, and the statistics that they come from."""
