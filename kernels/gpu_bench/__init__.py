"""The benchmark on a GPU: ``python -m kernels.bench --device cuda``.

``problem`` says what one is, ``products`` and ``companions`` list them, ``peers`` has torch's side, ``measure`` the
clock and the limits of the card, ``stamps`` whether a time is of the code that is here, ``pages`` the file of results,
the tables and the plots.
"""
