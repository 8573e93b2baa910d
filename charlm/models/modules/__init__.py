"""The layers of architectures as torch modules, for training."""
