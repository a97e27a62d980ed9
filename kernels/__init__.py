"""Arrays in, arrays out. No gradient, no model.

One folder an operation: `reference.py` is the definition, the other files are faster ways to the same numbers, and the
package's functions check their arguments and pick the way by array type and shape.

    matmul         matmul, linear, sum_rows
    conv2d         conv2d, conv_transpose2d and their gradients
    attention      attention and its gradient
    quantize       nearest_code
    norm           group norm (with SiLU), layer norm and their gradients
    activation     silu, gelu, softplus and their gradients
    cross_entropy  softmax cross-entropy and its gradient
    embedding      gather and its scatter
    resample       nearest up-sampling, average pooling and their gradients
    adam           one optimiser step over a flat buffer
"""

__part_of__ = "minigen"
