"""The caller's modules: unwrapped, lent and handed back, and how they are differentiated twice.

The files, in the order they build on each other: wrapped (models inside torch.compile or
DistributedDataParallel), borrow (a model handed back as it was), mixing (layer types that mix
examples), second_derivatives (operations that can be differentiated twice).
"""
