"""The walk as fused Triton kernels, for NVIDIA and AMD GPUs.

`launch` is the way in; it is imported at the first call, and Triton with it. One walk forward is

    pack.py           features, bias and state in the layout and dtype of the matrix units, padded
    walk_forward.py   a sweep over the columns for every block of rows, the update of the state at its end

and one backward the same with `walk_backward.py`. Block sizes live in `tiles.py` and nowhere else. What each
file keeps to, and the numbers behind it, is in docs/triton.md.
"""
