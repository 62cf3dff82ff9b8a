"""The differential corpus: programs on which nnrepl must give what plain MLX gives, bit for bit."""
