"""Objects in a store: s3://, gs:// and az://, with one small interface over all of them."""
