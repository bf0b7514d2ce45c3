"""What each verb does, as one documented function each."""
