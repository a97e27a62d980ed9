"""The benchmark on a GPU: ``python -m kernels.bench --device cuda``.

``problem`` says what one is, ``products`` and ``companions`` list them, ``peers`` has torch's side, ``measure`` the
clock and the limits of the card, ``pages`` the file of results, the tables and the plots.
"""
