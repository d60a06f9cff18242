"""Class names of the published data sets whose lists are long, one text file each."""
