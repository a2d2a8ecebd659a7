"""Weakly supervised localisation (Simonyan et al. 2013, section 3.2): the saliency of a network, and GraphCut on it."""
