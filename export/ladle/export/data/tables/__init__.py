"""Training data in tables: CSV files, and DataFrames of pandas, polars and Arrow."""
