"""The network: backbones, heads, the diffusion, and files of its weights."""
