"""The HEAR interface; its three functions come with a later release."""
