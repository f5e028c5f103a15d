"""Downloads Debian packages and unpacks the audio in them."""
