"""What a command is given: inputs, manifests, packed corpora and labels."""
