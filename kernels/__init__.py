"""Arrays in, arrays out: no gradients, no models.

One folder per operation: `reference.py` is the definition, the other files compute the same numbers faster, and the
package's functions check their arguments and choose an implementation by array type and shape.

    matmul         matmul, linear, sum_rows
    conv2d         conv2d, conv_transpose2d and their gradients
    attention      attention and its gradient
    quantize       nearest_code, quantize
    norm           group norm (with SiLU), layer norm and their gradients
    activation     silu, gelu, softplus and their gradients
    cross_entropy  softmax cross-entropy and its gradient
    embedding      gather and its scatter
    resample       nearest up-sampling, average pooling and their gradients
    adam           one optimiser step over a flat buffer
    codebook       the moving average of a VQ-VAE's codebook
    random         the counter-based random stream: words, uniform and normal numbers
    sampler_step   a step of DDIM with classifier-free guidance
    eight_bit      int8 and fp8 numbers with a scale per channel, linear layers on them

`with precision.precision("bf16"):` rounds the factors of the first three, for tensor cores.
"""

__part_of__ = "minigen"
