"""What every command needs: the console, files, pictures, optional packages."""
