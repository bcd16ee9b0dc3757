"""What the pictures are worth: similarity, perceptual distance, Fréchet and kernel distance, intervals."""
