"""The differential corpus: programs on which nnrepl must give what plain MLX gives, bit for bit.

`odd` are odd programs, `layers` all of mlx.nn and mlx.optimizers, `lm` all models of mlx-lm; `checks` says what
must hold for each of them.
"""
