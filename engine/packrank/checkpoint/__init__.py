"""What lies in a model's folder, read and checked: JSON, weights, names on the hub."""
