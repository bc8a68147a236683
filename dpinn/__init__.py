"""dpinn: distributed second-order training of physics-informed neural networks."""
