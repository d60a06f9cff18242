"""The network: backbones, heads, the diffusion between them, and files of its weights."""
