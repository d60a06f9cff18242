"""The walk as fused Triton kernels, for NVIDIA and AMD GPUs.

`launch` holds the two operators. Their first call imports it, and Triton with it. One walk forward runs

    pack.py           which writes features, bias and state in the layout and dtype of the matrix products
    walk_forward.py   which sweeps over all columns for every block of rows and computes the new state

One walk backward runs `pack.py` and `walk_backward.py`. `layout.py` chooses sizes and arithmetic, and
`tiles.py` holds all tile sizes. docs/triton.md explains the decisions.
"""
