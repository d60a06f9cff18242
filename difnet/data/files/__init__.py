"""Pictures and folders on disk: found, read, and refused where they cannot be read reliably."""
