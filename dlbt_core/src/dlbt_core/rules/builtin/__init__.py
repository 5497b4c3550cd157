"""The built-in plugin ``core``: copies, elementwise ops, arithmetic, reductions, and the linear family."""
