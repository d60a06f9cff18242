"""Networks on images that are too large for them: tiles for the convolutions, walks over all nodes at once.

Score map and embeddings are computed tile by tile and put together. Importance, seed and walks then see the
nodes of the whole image, as without tiles: a node may take its prediction from any other. Labels are the
argmax of the upsampled state, block by block. So neither a feature map nor the logits of the whole image are
ever in memory, but for each of the N nodes 64 numbers for each embedding, 2 more with a reach, and 2 k + 1
for each walk.

Tiles overlap. What the network computes near an inner border of a tile, where it sees zeros instead of the
rest of the image, is thrown away. Maxima over the window of a node are taken over the window of the whole
image, also where tiles divide it. So with an overlap of at least the reach of the convolutions (half their
receptive field) the result is that of the whole image, but for rounding. With a smaller overlap it differs
near the borders of tiles, and by the walks, slightly, everywhere. Networks that average over the image, such
as those with squeeze and excitation (EfficientNet, MobileNetV3, RegNetY), average over the tile instead, so
no overlap makes them exact.

Two limits are those of the walks, with and without tiles. Their time grows with N^2, so with the fourth power
of a side; benchmarks/bench_tiles.py times them. And a reach rounds positions to bfloat16, in steps of
1/256 to 1/128 of the distance from the centre of the image: somewhere from 128 to 256 nodes away from it, two
neighbours come to share a row or column, and further out more do.
"""

from difnet.utils.tiling.labels import blockwise_labels
from difnet.utils.tiling.plan import Tiling, make_plan
from difnet.utils.tiling.states import tiled_state

__all__ = ["Tiling", "blockwise_labels", "make_plan", "tiled_state"]
