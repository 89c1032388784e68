"""Input and output in stores: s3://, gs:// and az://."""
