"""The walk as fused Triton kernels, for NVIDIA and AMD GPUs.

`launch` holds the operators; it is imported at their first call, and Triton with it. One walk forward is

    pack.py           features, bias and state are written in the layout and dtype of the matrix units, padded
    walk_forward.py   a sweep over the columns for every block of rows, which ends with the new state

and one walk backward is the same with `walk_backward.py`. `layout.py` decides sizes and arithmetic, and
`tiles.py` holds all tile sizes. docs/triton.md gives the decisions and their numbers.
"""
