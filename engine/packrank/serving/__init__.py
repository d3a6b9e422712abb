"""Many callers, one model: their pairs share packs, in an order that is fair to all."""
