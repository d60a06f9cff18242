"""What is shown of rows: tables in the terminal and in the documents, plots."""
