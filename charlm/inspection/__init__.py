"""What a network has learned: how far back it looks, what its predictions depend on, which lags it can bridge."""
