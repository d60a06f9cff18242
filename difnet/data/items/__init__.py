"""Images with labels in files: what an item is, and the kinds of labels that index masks and colours are."""
