"""From a photograph and a saliency map to the box of an object, without ever being shown a box; and the score of it."""
