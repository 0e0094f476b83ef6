"""How networks are trained on images: recipes, the trainer, compiled passes and the exact unroll."""
