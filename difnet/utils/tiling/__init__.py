"""Networks on images that are too large for them: tiles for the convolutions, walks over all nodes at once.

Score map and embeddings are computed tile by tile and put together. Importance, seed and walks then see the
nodes of the whole image, as without tiles: a node may take its prediction from any other. Labels are the
argmax of the upsampled state, block by block. So neither a feature map nor the logits of the whole image are
ever in memory.

Memory grows with the N nodes. Kept for each node are 64 numbers an embedding, 2 more with a reach, until the
walk of the embedding is done, and the score map, the seed and the state of k numbers each. To these come the
copies of the walk at work: its operands in the layout of the backend, the next state and P y. The peak of
five walks over 21 classes was about 600 float32 numbers a node on a CPU (82,944 nodes of stride 8), of which
the embeddings are 320. Embeddings of a map that is coarser than the nodes are kept at its size until then.

Tiles overlap. What the network computes near an inner border of a tile, where it sees zeros instead of the
rest of the image, is thrown away. Maxima over the window of a node are taken over the window of the whole
image, also where tiles divide it. So with an overlap of at least the reach of the convolutions (half their
receptive field) the result is that of the whole image, but for rounding. With a smaller overlap it differs
near the borders of tiles, and by the walks, slightly, everywhere. 128 is a compromise: the reach of these
networks is about 300 to 400 pixels (ASPP alone 192); only an overlap of the reach gives the untiled result.
By gradients, a pixel reaches 291 pixels to one side in a ResNet-10-T with ASPP, 409 in a ResNet-18 and 405 in
a ResNet-50.

Networks that take sums over the image take them over the tile instead, so no overlap makes them exact:
squeeze and excitation (EfficientNet, MobileNetV3, RegNetY), ECA, the split attention of ResNeSt, the
GroupNorms of resnetv2_*_bit, and the global response norm of ConvNeXt-V2.

Two limits are those of the walks, with and without tiles. Their time grows with N^2, so with the fourth power
of a side; benchmarks/bench_tiles.py times them. 10,000 x 10,000 pixels at stride 8 are 1,562,500 nodes. With
node_stride 4, as in the networks that are shipped and in the recipe tuned, they are 6,250,000, and a walk
takes 16 times as long. And a reach rounds positions to bfloat16, in steps of
1/256 to 1/128 of the distance from the centre of the image: somewhere from 128 to 256 nodes away from it, two
neighbours come to share a row or column, and further out more do.
"""

from difnet.utils.tiling.labels import blockwise_labels
from difnet.utils.tiling.plan import OVERLAP, Plan, Tiling, long_run, make_plan
from difnet.utils.tiling.reading import read_large_image
from difnet.utils.tiling.states import resized, tiled_state

__all__ = [
    "OVERLAP",
    "Plan",
    "Tiling",
    "blockwise_labels",
    "long_run",
    "make_plan",
    "read_large_image",
    "resized",
    "tiled_state",
]
