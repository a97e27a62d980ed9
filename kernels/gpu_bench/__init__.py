"""The benchmark on a GPU: ``python -m kernels.bench --device cuda``.

``problem`` says what a problem is, ``products`` and ``companions`` list them, ``peers`` has torch's side, ``measure``
the clock and the limits of the card, ``stamps`` the check that a time is of the current code, ``pages`` the file of
results, the tables and the plots.
"""
