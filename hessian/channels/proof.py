"""placeholder"""
from hessian.channels.layers import layers_of
def proved(model, example_input, provenance, ignored):
    return layers_of(model, provenance, {}, (), ignored)
