"""The inert reader of PyTorch files: pickles are data to it, and nothing that they name is imported or called.

``read_torch_file`` in ``torch_file`` is the way in; ``records`` holds what comes out.
"""
